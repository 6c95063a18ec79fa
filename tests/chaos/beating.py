"""Beating the processes of a site while they are killed and stopped, until all is calm again."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from threading import Event, Lock
from typing import TYPE_CHECKING

from .audit import KINDS, Facts, History, Span, Violation, audit
from .processes import LEASE_SECONDS, PATIENCE_SECONDS, Process, Reply, Site

if TYPE_CHECKING:
    from .databases import Database

PROCESSES = 4
# So many of them are always left to serve.
LEFT_ALONE = 2
BEATERS = 8
# Beats that come at the same moment meet: half of them wait for the next one of these.
TICK_SECONDS = 0.25
# A process that stands still does not answer.
BEAT_PATIENCE_SECONDS = 4.0
LOOK_SECONDS = 0.05
SHORT_STOP = (0.1, LEASE_SECONDS / 2)
LONG_STOP = (LEASE_SECONDS + 1.5, 2 * LEASE_SECONDS + 2.0)
OK, ACCEPTED = 200, 202
MOST_SHOWN = 30
NEVER = float("inf")
# What is done to a process that serves, and how often compared with the others.
DEEDS = {"kills": 3, "short stops": 2, "long stops": 4, "terminations": 1}
# This many of those that stood still for long never go on.
KILLED_AFTER_STOP = 0.25


@dataclass
class Outcome:
    """What chaos did, what came of it, and what must never be."""

    seed: int | None
    kind: str
    figures: dict[str, int]
    violations: list[Violation]
    # What beats were told instead of a report, and how often.
    refusals: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """Give the summary, and each violation on a line of its own."""
        found = Counter(violation.kind for violation in self.violations)
        name = "storm" if self.seed is None else f"chaos, seed {self.seed},"
        told = [
            f"{name} on {self.kind}",
            ", ".join(f"{name} {number}" for name, number in self.figures.items()),
            ", ".join(f"{kind} {found[kind]}" for kind in KINDS),
        ]
        shown = [str(violation) for violation in self.violations[:MOST_SHOWN]]
        left_out = len(self.violations) - len(shown)
        more = [f"and {left_out} more"] if left_out else []
        refused = [f"{number} beats were told {text}" for text, number in self.refusals.items()]
        return "\n".join([*told, *refused, *shown, *more])


@dataclass
class Place:
    """One of the places that a process is kept running at."""

    process: Process
    # When something is to be done about it, by the monotonic clock.
    until: float = NEVER
    stopped_at: datetime | None = None
    # It was asked to end, and may take its time.
    ending: bool = False

    @property
    def up(self) -> bool:
        """Whether its process serves, as far as is known."""
        process = self.process
        return not (self.stopped_at or self.ending or process.ended) and process.port > 0


class Chaos:
    """One run of chaos on a site; the same seed plans the same deeds."""

    def __init__(self, site: Site, database: Database, seed: int, seconds: float) -> None:
        """Take what is to be beaten, and for how long."""
        self.site, self.database, self.seed, self.seconds = site, database, seed, seconds
        self.random = Random(seed)  # noqa: S311 - no secret
        self.facts = Facts()
        self.deeds: Counter[str] = Counter()
        self.answers: Counter[int] = Counter()
        self.noting = Lock()
        self.over = Event()
        self.places: list[Place] = []

    def run(self) -> Outcome:
        """Let chaos reign, then calm; give what came of it."""
        self.places = [Place(process) for process in self.site.start_all(PROCESSES)]
        with ThreadPoolExecutor(BEATERS) as pool:
            beaters = [
                pool.submit(self.beat_on, Random(f"{self.seed} {number}"))  # noqa: S311 - no secret
                for number in range(BEATERS)
            ]
            try:
                self.harm()
            finally:
                self.over.set()
        for beater in beaters:
            beater.result()
        history = self.calm_down()
        violations = audit(history, self.facts)
        refusals = Counter(text for _, text in self.facts.refused)
        return Outcome(self.seed, self.database.kind, self.figures(history), violations, refusals)

    def figures(self, history: History) -> dict[str, int]:
        """Count what was done and what became of it."""
        runs = Counter(run.status for run in history.runs)
        errors = Counter(run.error_type for run in history.runs if run.status == "failed")
        successes = {run.id for run in history.runs if run.succeeded}
        return {
            "beats": self.answers.total(),
            **{f"answered {status}": n for status, n in sorted(self.answers.items()) if status},
            "not answered": self.answers[0],
            "runs": len(history.runs),
            **runs,
            **{str(error): number for error, number in errors.items()},
            "retries": sum(run.trigger == "retry" for run in history.runs),
            # Their flows did all their work, and were not let commit it.
            "fenced out": len(set(history.done) - successes),
            **{deed: self.deeds[deed] for deed in (*DEEDS, "database restarts")},
        }

    # What calls.

    def beat_on(self, random: Random) -> None:
        """Beat whatever is there until it is over."""
        while not self.over.is_set():
            there = [place.process for place in self.places if place.process.port]
            up = [place.process for place in self.places if place.up]
            choice = up if up and random.random() > 0.1 else there
            if choice:
                prefer = "respond-async" if random.random() > 0.8 else ""
                process, wait = random.choice(choice), random.choice((0, 0, 0, 1, 2))
                self.note(process.beat(wait, BEAT_PATIENCE_SECONDS, prefer))
            to_tick = TICK_SECONDS - time.time() % TICK_SECONDS
            self.over.wait(random.choice((to_tick, random.uniform(0, TICK_SECONDS))))

    def note(self, reply: Reply) -> None:
        """Count an answer."""
        with self.noting:
            self.answers[reply.status] += 1
            if reply.status == OK and not reply.body.get("goes_on"):
                self.facts.answered += 1
            elif reply.status not in {0, OK, ACCEPTED}:
                told = f"{reply.status}: {reply.body.get('detail')}"
                self.facts.refused.append((Span(reply.sent_at, reply.answered_at), told))

    # What harms.

    def harm(self) -> None:
        """Stop, kill and crash at random moments, and mend it some time later."""
        end = time.monotonic() + self.seconds
        crash_at = end - self.random.uniform(0.3, 0.7) * self.seconds
        act_at = 0.0
        while (now := time.monotonic()) < end:
            for place in self.places:
                self.mend(place, now)
            if self.database.crashes and now > crash_at:
                crash_at = NEVER
                self.crash()
            up = [place for place in self.places if place.up]
            if now > act_at and len(up) > LEFT_ALONE:
                act_at = now + self.random.uniform(0.2, 1.2)
                self.act(self.random.choice(up), now)
            time.sleep(LOOK_SECONDS)

    def act(self, place: Place, now: float) -> None:
        """Do something to a process that serves."""
        (deed,) = self.random.choices(list(DEEDS), list(DEEDS.values()))
        self.deeds[deed] += 1
        self.tell(f"{deed}: {place.process.id}")
        if deed == "kills":
            self.kill(place, now)
        elif deed == "terminations":
            self.ended(place.process, PATIENCE_SECONDS)
            place.process.terminate()
            place.ending, place.until = True, now + PATIENCE_SECONDS
        else:
            span = SHORT_STOP if deed == "short stops" else LONG_STOP
            place.stopped_at, place.until = datetime.now(UTC), now + self.random.uniform(*span)
            place.process.stop()

    def tell(self, deed: str) -> None:
        """Write down what is done, for whoever reads the logs of the processes beside it."""
        with (self.site.folder / "deeds.log").open("a") as file:
            file.write(f"{datetime.now(UTC)} {deed}\n")

    def kill(self, place: Place, now: float) -> None:
        """End a process at once; another one starts a little later."""
        self.ended(place.process)
        place.process.kill()
        place.until = now + self.random.uniform(0.0, 1.0)

    def ended(self, process: Process, seconds: float = 0.0) -> None:
        """Note that a process is ended now, for what it leaves undone.

        One that may take its time may yet get what it was claiming when it was told.
        """
        moment = datetime.now(UTC)
        span = Span(moment, moment + timedelta(seconds=seconds))
        self.facts.disturbed[process.id].append(span)

    def go_on(self, place: Place) -> None:
        """Let a process go on that stood still, and note for how long."""
        assert place.stopped_at is not None
        self.tell(f"goes on: {place.process.id}")
        place.process.go_on()
        span = Span(place.stopped_at, datetime.now(UTC))
        self.facts.disturbed[place.process.id].append(span)
        place.stopped_at, place.until = None, NEVER

    def mend(self, place: Place, now: float) -> None:
        """Let a process go on, or start another one, when its time has come."""
        process = place.process
        if process.ended and (place.ending or place.until == NEVER):
            if not place.ending or process.exit_code:
                text = f"process {process.id} ended with {process.exit_code}"
                self.facts.others.append(Violation("harmed", f"{text}: {process.last_words}"))
            place.ending, place.until = False, now
        if now < place.until:
            return
        if process.ended:
            place.process, place.until = self.site.start(), NEVER
            self.tell(f"starts: {place.process.id} after {process.id}")
        elif place.ending:
            text = f"process {process.id} does not end: {process.last_words}"
            self.facts.others.append(Violation("stuck", text))
            self.kill(place, now)
        elif place.stopped_at:
            long = datetime.now(UTC) - place.stopped_at > timedelta(seconds=LEASE_SECONDS)
            self.go_on(place)
            if long and self.random.random() < KILLED_AFTER_STOP:
                self.deeds["kills"] += 1
                self.tell(f"kills: {process.id}")
                self.kill(place, now)

    def crash(self) -> None:
        """Crash the database server, and start it again a little later."""
        self.deeds["database restarts"] += 1
        self.tell("database restarts")
        since = datetime.now(UTC)
        self.database.crash()
        time.sleep(self.random.uniform(0.2, 1.5))
        self.database.start()
        self.facts.outages.append(Span(since, datetime.now(UTC)))
        self.tell("the database is back")

    # What follows.

    def calm_down(self) -> History:
        """Beat without harm until nothing is in progress and all flows have run once more."""
        calm_since = datetime.now(UTC)
        end = time.monotonic() + PATIENCE_SECONDS
        for place in self.places:
            if place.stopped_at:
                self.go_on(place)
            if place.process.ended:
                place.process = self.site.start()
        while not self.is_calm(calm_since) and time.monotonic() < end:
            for place in self.places:
                self.mend(place, time.monotonic())
                if place.up:
                    self.note(place.process.beat())
        self.site.close()
        return self.site.history()

    def is_calm(self, since: datetime) -> bool:
        """Tell whether all that was begun has ended, and each flow was begun `since`."""
        end = time.monotonic() + 2 * LEASE_SECONDS
        while time.monotonic() < end:
            history = self.site.history()
            begun = {run.flow_id for run in history.runs if (run.started_at or since) > since}
            if len(begun) < len(history.flows):
                return False
            if all(run.status in {"success", "failed"} for run in history.runs):
                return True
            time.sleep(LOOK_SECONDS)
        return False

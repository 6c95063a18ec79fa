"""Beating the processes of a site while they are harmed, until all is calm again."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from random import Random
from threading import Event, Lock
from typing import TYPE_CHECKING

from .audit import LAST_DAY, Facts, History, Refusal, Span, Violation, audit
from .network import AT_COMMIT, TROUBLES, Troubles
from .outcome import Outcome
from .place import NEVER, Place
from .processes import LEASE_SECONDS, PATIENCE_SECONDS, Process, Reply, Site

if TYPE_CHECKING:
    from collections.abc import Sequence

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
# What is done to a process that serves, and how often compared with the others.
DEEDS = {"kills": 3, "short stops": 2, "long stops": 4, "terminations": 1}
# What processes do to themselves, by the moment at which they do it: see `inside/application.py`.
OWN_KILLS = {"claim": "kills after a claim", "record": "kills before a record"}
# This many of those that stood still for long never go on.
KILLED_AFTER_STOP = 0.25


class Chaos:
    """One run of chaos on a site; the same seed plans the same deeds."""

    # How long all may take to be calm, in seconds.
    patience = PATIENCE_SECONDS
    beaters, weights = BEATERS, DEEDS
    # What it counts, beside what became of beats and runs.
    counted: tuple[str, ...] = (
        *DEEDS,
        *OWN_KILLS.values(),
        "database restarts",
        *TROUBLES,
    )

    def __init__(self, site: Site, database: Database, seed: int, seconds: float) -> None:
        """Take what is to be beaten, and for how long."""
        self.site, self.database, self.seed, self.seconds = site, database, seed, seconds
        self.random = Random(seed)  # noqa: S311 - no secret
        self.facts = Facts()
        self.deeds: Counter[str] = Counter()
        self.answers: Counter[int] = Counter()
        self.troubles = Troubles(self.facts, self.deeds, self.tell)
        # Processes that have claimed a run since all was calm.
        self.claiming: set[int] = set()
        # Processes that have killed themselves, as far as it was noticed.
        self.own: set[int] = set()
        self.noting = Lock()
        self.over = Event()
        self.calm_since = LAST_DAY
        self.places: list[Place] = []

    def run(self) -> Outcome:
        """Let chaos reign, then calm; give what came of it."""
        self.places = [Place(process) for process in self.start()]
        with ThreadPoolExecutor(self.beaters) as pool:
            beaters = [
                pool.submit(self.beat_on, Random(f"{self.seed} {number}"))  # noqa: S311 - no secret
                for number in range(self.beaters)
            ]
            try:
                self.harm()
            finally:
                self.over.set()
        for beater in beaters:
            beater.result()
        history = self.calm_down()
        violations = audit(history, self.facts)
        refusals = Counter(refusal.text for refusal in self.facts.refused)
        figures = {"minutes": round(self.seconds / 60, 1), **self.figures(history)}
        return Outcome(self.seed, self.database.kind, figures, violations, refusals)

    def start(self) -> Sequence[Process]:
        """Start what is to be harmed."""
        return self.site.start_all(PROCESSES)

    def replace(self, place: Place) -> None:
        """Start another process like the one at a place, which has ended."""
        place.process = self.site.start()

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
            **{deed: self.deeds[deed] for deed in self.counted},
        }

    # What calls.

    def beat_on(self, random: Random) -> None:
        """Beat whatever is there until it is over."""
        while not self.over.is_set():
            there = [place.process for place in self.places if place.process.port]
            up = [place.process for place in self.places if place.works and place.process.port]
            choice = up if up and random.random() > 0.1 else there
            if choice:
                prefer = "respond-async" if random.random() > 0.8 else ""
                process, wait = random.choice(choice), random.choice((0, 0, 0, 1, 2))
                self.note(process, process.beat(wait, BEAT_PATIENCE_SECONDS, prefer))
            to_tick = TICK_SECONDS - time.time() % TICK_SECONDS
            self.over.wait(random.choice((to_tick, random.uniform(0, TICK_SECONDS))))

    def note(self, process: Process, reply: Reply) -> None:
        """Count an answer."""
        with self.noting:
            self.answers[reply.status] += 1
            if reply.status == OK and not reply.body.get("goes_on"):
                self.facts.answered += 1
            elif reply.status not in {0, OK, ACCEPTED}:
                told = f"{reply.status}: {reply.body.get('detail')}"
                span = Span(reply.sent_at, reply.answered_at)
                self.facts.refused.append(Refusal(span, process.id, told))

    # What harms.

    def harm(self) -> None:
        """Stop, kill and crash at random moments, and mend it some time later."""
        end = time.monotonic() + self.seconds
        crash_at = end - self.random.uniform(0.3, 0.7) * self.seconds
        act_at = disturb_at = 0.0
        while (now := time.monotonic()) < end:
            for place in self.places:
                self.mend(place, now)
            self.troubles.tend(now)
            if self.database.crashes and now > crash_at:
                crash_at = NEVER
                self.crash()
            if now > act_at and (up := self.up_and_free()):
                act_at = now + self.random.uniform(0.2, 1.2)
                self.act(self.random.choice(up), now)
            if now > disturb_at:
                disturb_at = now + self.random.uniform(0.5, 2.5)
                self.disturb(now)
            time.sleep(LOOK_SECONDS)

    def up_and_free(self) -> list[Place]:
        """Return the places whose process may be harmed, if enough others are left to serve."""
        up = [place for place in self.places if place.works]
        free = [place for place in up if not self.troubles.spare(place.process)]
        return free if len(up) > LEFT_ALONE else []

    def disturb(self, now: float) -> None:
        """Do something to the network of a process that has one, and no trouble yet.

        One process at least is left that reaches the database at all times.
        """
        up = [place.process for place in self.places if place.works]
        free = [each for each in up if each.network and not self.troubles.of(each)]
        if free:
            kinds = TROUBLES if len(up) > 1 else AT_COMMIT
            (kind,) = self.random.choices(list(kinds), [TROUBLES[kind] for kind in kinds])
            self.troubles.begin(kind, self.random.choice(free), self.random, now)

    def act(self, place: Place, now: float) -> None:
        """Do something to a process that serves."""
        (deed,) = self.random.choices(list(self.weights), list(self.weights.values()))
        self.deeds[deed] += 1
        self.tell(f"{deed}: {place.process.id}")
        if deed == "kills":
            self.kill(place, now)
        elif deed == "terminations":
            self.terminate(place, now)
        else:
            self.stop(place, now, SHORT_STOP if deed == "short stops" else LONG_STOP)

    def terminate(self, place: Place, now: float) -> None:
        """Ask a process to end."""
        self.ended(place.process, PATIENCE_SECONDS)
        place.process.terminate()
        place.ending, place.until = True, now + PATIENCE_SECONDS

    def stop(self, place: Place, now: float, seconds: tuple[float, float]) -> None:
        """Stop a process for a while."""
        place.stopped_at, place.until = datetime.now(UTC), now + self.random.uniform(*seconds)
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
        self.disturbed(process, Span(moment, moment + timedelta(seconds=seconds)))

    def disturbed(self, process: Process, span: Span) -> None:
        """Note that all of a process was disturbed."""
        for number in process.ids:
            self.facts.disturbed[number].append(span)

    def go_on(self, place: Place) -> None:
        """Let a process go on that stood still, and note for how long."""
        assert place.stopped_at is not None
        self.tell(f"goes on: {place.process.id}")
        place.process.go_on()
        self.disturbed(place.process, Span(place.stopped_at, datetime.now(UTC)))
        place.stopped_at, place.until = None, NEVER

    def mend(self, place: Place, now: float) -> None:
        """Let a process go on, or start another one, when its time has come."""
        process = place.process
        if (
            process.ended
            and (kill := self.site.own_kill(process.id))
            and process.id not in self.own
        ):
            self.own.add(process.id)
            self.deeds[OWN_KILLS[kill.moment]] += 1
            self.facts.disturbed[process.id].append(Span(kill.at, datetime.now(UTC)))
            place.stopped_at, place.ending, place.until = None, False, now
        if process.ended and (place.ending or place.until == NEVER):
            if not place.ending or process.exit_code:
                text = f"process {process.id} ended with {process.exit_code}"
                self.facts.others.append(Violation("harmed", f"{text}: {process.last_words}"))
            place.ending, place.until = False, now
        if now < place.until:
            return
        if process.ended:
            self.replace(place)
            place.until = NEVER
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
        self.calm_since = datetime.now(UTC)
        end = time.monotonic() + self.patience
        self.troubles.end_all()
        (self.site.folder / "calm").touch()
        for place in self.places:
            self.mend(place, time.monotonic())
            if place.stopped_at:
                self.go_on(place)
            if place.process.ended:
                self.replace(place)
        while not self.is_calm(self.calm_since) and time.monotonic() < end:
            for place in self.places:
                self.mend(place, time.monotonic())
                if place.up and place.process.takes_beats:
                    reply = place.process.beat()
                    self.note(place.process, reply)
                    if reply.body.get("flows_triggered"):
                        self.claiming.add(place.process.id)
        self.facts.others += [Violation("stuck", text) for text in self.stuck()]
        self.site.close()
        return self.site.history()

    def stuck(self) -> list[str]:
        """Report the processes that claim nothing; write to their logs what they wait for."""
        found = self.idle()
        lines = [f"process {each.id} claims nothing any more: {each.last_words}" for each in found]
        for process in found:
            process.dump()
        return lines

    def idle(self) -> list[Process]:
        """Return the processes that have claimed nothing since all was calm."""
        there = [place.process for place in self.places]
        return [process for process in there if process.id not in self.claiming]

    def is_calm(self, since: datetime) -> bool:
        """Tell whether all that was begun has ended, and each flow was begun `since`.

        Each process must have claimed a run since: others do the work of one that is stuck.
        """
        if self.idle():
            return False
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

"""The audit: what must hold of a history of runs, whatever happened meanwhile.

It knows nothing but the rows that are left, what flows said outside of the database, and what was
done to processes and servers. Each rule yields what breaks it, with flow, slot and run ids.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# In the words of the figures: what ran twice or at once, what nobody ran or recorded, what was
# written without a success or missing with one, what never ended; then windows and `last_run_*`,
# and runs and beats that failed although nothing was done to them.
KINDS = ("duplicate", "lost", "half-written", "stuck", "window", "record", "harmed")
# How a run ends whose process was lost: `on_lost` says what becomes of its slot.
LOST = ("LeaseExpired", "Interrupted")
# How a run fails whose database cannot be reached, and what a beat is answered then.
UNREACHABLE = ("OperationalError", "InterfaceError", "InternalError")
UNAVAILABLE = "503:"
# A slot that was lost so often is given up.
MOST_ATTEMPTS = 10
PLANNED = "PlannedError"
FAILS_BY_PLAN = "failing"
WRITES_NOTHING = ("elsewhere", "at_once")
LAST_DAY = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Violation:
    """Something that must never be."""

    kind: str
    text: str

    def __str__(self) -> str:
        """Give it as a line."""
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True)
class Flow:
    """A flow's row; `kind` and `on_lost` are what the application declared."""

    id: int
    name: str
    kind: str
    on_lost: str
    every: timedelta
    next_run_at: datetime
    last_slot_at: datetime | None
    last_run_at: datetime | None
    last_run_status: str | None
    last_success_at: datetime | None
    window_starts_at: datetime | None


@dataclass(frozen=True)
class FlowRun:
    """A run's row; `rows` is how many rows the flow says that it wrote."""

    id: int
    flow_id: int
    status: str
    trigger: str
    slot: datetime
    attempt: int
    missed_slots: int
    window_start: datetime
    window_end: datetime
    started_at: datetime | None
    ended_at: datetime | None
    lease_expires_at: datetime | None
    worker: str | None
    error_type: str | None
    error_message: str | None
    rows: int

    @property
    def succeeded(self) -> bool:
        """Whether it says that it has succeeded."""
        return self.status == "success"

    @property
    def process(self) -> int:
        """The id of the process that ran it, from `host:process:start`."""
        return int((self.worker or "::0").split(":")[1] or 0)

    def overlaps(self, span: Span) -> bool:
        """Tell whether it was in progress at any moment of a span."""
        return Span(self.started_at or LAST_DAY, self.ended_at or LAST_DAY).overlaps(span)


@dataclass(frozen=True)
class Row:
    """A row that a flow wrote, with the times that it saw."""

    run_id: int
    flow_name: str
    slot: datetime
    attempt: int
    part: str
    begun_at: datetime
    written_at: datetime


@dataclass(frozen=True)
class History:
    """What is left in the end; `done` has the ids of runs whose flows came to their last line."""

    flows: list[Flow]
    runs: list[FlowRun]
    rows: list[Row]
    beats: int
    done: list[int]


@dataclass(frozen=True)
class Span:
    """From when to when something was the case."""

    since: datetime
    until: datetime

    def overlaps(self, other: Span) -> bool:
        """Return whether the two have a moment in common."""
        return self.since <= other.until and other.since <= self.until


@dataclass(frozen=True)
class Refusal:
    """What a beat was answered instead of a report, and by which process."""

    span: Span
    process: int
    text: str


@dataclass
class Facts:
    """What was done, and what was answered: beats that said they had ended, and other answers."""

    answered: int = 0
    refused: list[Refusal] = field(default_factory=list)
    outages: list[Span] = field(default_factory=list)
    # By process: when its network was silent or slow, or had lost something, with what follows.
    cut_off: defaultdict[int, list[Span]] = field(default_factory=lambda: defaultdict(list))
    # By process: when it was ended, and from when to when it stood still.
    disturbed: defaultdict[int, list[Span]] = field(default_factory=lambda: defaultdict(list))
    # What else went wrong outside of the database.
    others: list[Violation] = field(default_factory=list)


def audit(history: History, facts: Facts) -> list[Violation]:
    """Give all that breaks a rule."""
    return list(find_all(history, facts))


def find_all(history: History, facts: Facts) -> Iterator[Violation]:
    """Apply all rules."""
    known = {flow.id for flow in history.flows}
    for flow in history.flows:
        runs = sorted(
            (run for run in history.runs if run.flow_id == flow.id),
            key=lambda run: (run.slot, run.attempt, run.id),
        )
        if not runs:
            yield Violation("lost", f"{flow.name}: never ran")
            continue
        rows = [row for row in history.rows if row.flow_name == flow.name]
        yield from run_twice(flow, runs)
        yield from at_once(flow, runs, rows)
        yield from unaccounted_slots(flow, runs)
        yield from unaccounted_attempts(flow, runs)
        yield from half_written(flow, runs, rows)
        yield from never_ended(flow, runs)
        yield from broken_windows(flow, runs)
        yield from wrong_last_run(flow, runs)
        yield from wrong_times(flow, runs, rows)
        yield from harmed_runs(flow, runs, facts)
    yield from written_by_nobody(history)
    yield from done_wrongly(history)
    if strangers := [run.id for run in history.runs if run.flow_id not in known]:
        yield Violation("record", f"runs {strangers} of no flow")
    if history.beats < facts.answered:
        yield Violation(
            "record", f"{facts.answered} beats said that they had ended, {history.beats} have rows"
        )
    for refusal in facts.refused:
        away = [*facts.outages, *facts.cut_off[refusal.process]]
        if not refusal.text.startswith(UNAVAILABLE) or not any(map(refusal.span.overlaps, away)):
            text = f"a beat at {refusal.span.since} was answered {refusal.text}"
            yield Violation("harmed", f"{text}, by process {refusal.process}")
    yield from facts.others


def audit_storm(history: History, rounds: int) -> list[Violation]:
    """Give all that breaks a rule after flows were made due so often, on no grid."""
    return list(find_in_storm(history, rounds))


def find_in_storm(history: History, rounds: int) -> Iterator[Violation]:
    """Apply the rules that do not ask for a grid."""
    for flow in history.flows:
        runs = [run for run in history.runs if run.flow_id == flow.id]
        rows = [row for row in history.rows if row.flow_name == flow.name]
        successes = sum(run.succeeded for run in runs)
        if (len(runs), successes, len(rows)) != (rounds, rounds, rounds):
            text = f"{successes} of {len(runs)} runs succeeded and wrote {len(rows)} rows"
            kind = "lost" if successes < rounds else "duplicate"
            yield Violation(kind, tell(flow, runs, f"{text} in {rounds} rounds"))
        for rule in (run_twice, never_ended):
            yield from rule(flow, runs)
        for owned in (at_once, half_written, wrong_times):
            yield from owned(flow, runs, rows)
    yield from written_by_nobody(history)
    yield from done_wrongly(history)


def tell(flow: Flow, runs: Iterable[FlowRun], what: str) -> str:
    """Name flow, slots and runs, and say what is wrong."""
    found = list(runs)
    slots = ", ".join(dict.fromkeys(run.slot.isoformat() for run in found))
    ids = ", ".join(str(run.id) for run in found)
    return f"{flow.name} (every {flow.every}), slot {slots}, run {ids}: {what}"


def run_twice(flow: Flow, runs: list[FlowRun]) -> Iterator[Violation]:
    """No attempt at a slot is there twice, and no slot has two successes."""
    attempts: defaultdict[tuple[datetime, int], list[FlowRun]] = defaultdict(list)
    successes: defaultdict[datetime, list[FlowRun]] = defaultdict(list)
    for run in runs:
        attempts[run.slot, run.attempt].append(run)
        if run.succeeded:
            successes[run.slot].append(run)
    for (_, attempt), same in attempts.items():
        if len(same) > 1:
            yield Violation("duplicate", tell(flow, same, f"attempt {attempt} twice"))
    for same in successes.values():
        if len(same) > 1:
            yield Violation("duplicate", tell(flow, same, "two successes"))


def at_once(flow: Flow, runs: list[FlowRun], rows: list[Row]) -> Iterator[Violation]:
    """No two runs of a flow were in progress at once, by their rows and by what the flows saw."""
    spans = [(run.started_at, run.ended_at, run) for run in runs if run.started_at and run.ended_at]
    spans.sort(key=lambda span: span[:2])
    for (_, ended_at, before), (started_at, _, after) in pairwise(spans):
        if started_at < ended_at:
            text = f"one began at {started_at}, before the other had ended at {ended_at}"
            yield Violation("duplicate", tell(flow, [before, after], text))
    by_id = {run.id: run for run in runs}
    own: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        own[row.run_id].append(row)
    seen = sorted(
        (min(row.begun_at for row in rows), max(row.written_at for row in rows), number)
        for number, rows in own.items()
        if number in by_id
    )
    for (_, written_at, before_id), (begun_at, _, after_id) in pairwise(seen):
        if begun_at < written_at:
            text = f"the flow wrote at {written_at}, after it had begun anew at {begun_at}"
            yield Violation("duplicate", tell(flow, [by_id[before_id], by_id[after_id]], text))


def unaccounted_slots(flow: Flow, runs: list[FlowRun]) -> Iterator[Violation]:
    """All slots lie on the grid, and those that were left out are counted by the next one."""
    firsts = list({run.slot: run for run in reversed(runs)}.values())[::-1]
    for run in firsts:
        if (run.slot - firsts[0].slot) % flow.every:
            yield Violation("lost", tell(flow, [run], f"not on the grid of {firsts[0].slot}"))
    if firsts[0].missed_slots:
        yield Violation("lost", tell(flow, firsts[:1], "the first slot counts missed ones"))
    for before, after in pairwise(firsts):
        left_out = (after.slot - before.slot) // flow.every - 1
        if left_out != after.missed_slots:
            text = f"{left_out} slots lie between, {after.missed_slots} are counted"
            yield Violation("lost", tell(flow, [before, after], text))
    last = firsts[-1]
    if flow.last_slot_at != last.slot or flow.next_run_at != last.slot + flow.every:
        text = f"the flow's last slot is {flow.last_slot_at}, its next {flow.next_run_at}"
        yield Violation("lost", tell(flow, [last], text))


def unaccounted_attempts(flow: Flow, runs: list[FlowRun]) -> Iterator[Violation]:
    """A slot has a next attempt if the one before was lost and `on_lost` says so, and only then."""
    slots: defaultdict[datetime, list[FlowRun]] = defaultdict(list)
    for run in runs:
        slots[run.slot].append(run)
    for attempts in slots.values():
        if [run.attempt for run in attempts] != list(range(1, len(attempts) + 1)):
            numbers = [run.attempt for run in attempts]
            yield Violation("lost", tell(flow, attempts, f"its attempts are {numbers}"))
        if attempts[0].trigger != "schedule":
            yield Violation("record", tell(flow, attempts[:1], attempts[0].trigger))
        for before, after in pairwise(attempts):
            if not was_lost(before) or flow.on_lost != "retry":
                text = f"tried again after {before.status}, {before.error_type}"
                yield Violation("duplicate", tell(flow, [before, after], text))
            if after.trigger != "retry":
                yield Violation("record", tell(flow, [after], f"a retry says {after.trigger}"))
            if (after.window_start, after.window_end) != (before.window_start, before.window_end):
                yield Violation("window", tell(flow, [before, after], "the retry's window differs"))
        last = attempts[-1]
        if was_lost(last) and flow.on_lost == "retry" and last.attempt < MOST_ATTEMPTS:
            yield Violation("lost", tell(flow, [last], "lost, and never tried again"))


def was_lost(run: FlowRun) -> bool:
    """Tell whether the run's process was lost."""
    return run.status == "failed" and run.error_type in LOST


def half_written(flow: Flow, runs: list[FlowRun], rows: list[Row]) -> Iterator[Violation]:
    """A success has all its rows, each once; what did not succeed has none."""
    for run in runs:
        parts = Counter(row.part for row in rows if row.run_id == run.id)
        writes = bool(run.rows) is (flow.kind not in WRITES_NOTHING)
        if run.succeeded and not (parts.total() == len(parts) == run.rows and writes):
            text = f"a success with {dict(parts)} instead of {run.rows} rows"
            yield Violation("half-written", tell(flow, [run], text))
        if not run.succeeded and parts:
            text = f"{run.status} ({run.error_type}), and {dict(parts)} are there"
            yield Violation("half-written", tell(flow, [run], text))
        if parts["never"] or parts["undone"]:
            yield Violation("half-written", tell(flow, [run], f"{dict(parts)} are there"))


def written_by_nobody(history: History) -> Iterator[Violation]:
    """Each row belongs to the run that it names."""
    names = {flow.id: flow.name for flow in history.flows}
    known = {(run.id, names.get(run.flow_id), run.slot, run.attempt) for run in history.runs}
    for row in history.rows:
        if (row.run_id, row.flow_name, row.slot, row.attempt) not in known:
            text = f"{row.flow_name}, slot {row.slot}, run {row.run_id}: a row of no such run"
            yield Violation("half-written", text)


def done_wrongly(history: History) -> Iterator[Violation]:
    """A flow was executed once for a success, and never twice for a run."""
    done = Counter(history.done)
    flows = {flow.id: flow for flow in history.flows}
    for run in (run for run in history.runs if run.flow_id in flows):
        if done[run.id] > 1:
            text = f"executed {done[run.id]} times"
            yield Violation("duplicate", tell(flows[run.flow_id], [run], text))
        if run.succeeded and not done[run.id]:
            text = "a success, and the flow never came to its end"
            yield Violation("half-written", tell(flows[run.flow_id], [run], text))


def never_ended(flow: Flow, runs: list[FlowRun]) -> Iterator[Violation]:
    """Each run has ended."""
    for run in runs:
        if run.status not in {"success", "failed"}:
            yield Violation("stuck", tell(flow, [run], f"{run.status}, by {run.worker}"))
        elif run.started_at is None or run.ended_at is None:
            text = f"{run.status}, from {run.started_at} to {run.ended_at}"
            yield Violation("record", tell(flow, [run], text))


def broken_windows(flow: Flow, runs: list[FlowRun]) -> Iterator[Violation]:
    """Windows of successes meet; the first begins an interval before the flow's first slot."""
    successes = [run for run in runs if run.succeeded]
    expected = runs[0].slot - flow.every
    before = runs[0]
    for run in successes:
        if run.window_start != expected:
            text = f"the window begins at {run.window_start} instead of {expected}"
            yield Violation("window", tell(flow, [before, run], text))
        before, expected = run, run.window_end
    if flow.window_starts_at != expected:
        text = f"the flow's next window begins at {flow.window_starts_at} instead of {expected}"
        yield Violation("window", tell(flow, [before], text))
    for run in runs:
        if run.window_end < run.window_start or run.window_end > run.slot:
            text = f"its window goes from {run.window_start} to {run.window_end}"
            yield Violation("window", tell(flow, [run], text))


def wrong_last_run(flow: Flow, runs: list[FlowRun]) -> Iterator[Violation]:
    """The flow's `last_run_*` are those of the run that ended last."""
    ended = [run for run in runs if run.ended_at]
    if not ended:
        return
    last = max(ended, key=lambda run: run.ended_at or LAST_DAY)
    if (flow.last_run_at, flow.last_run_status) != (last.ended_at, last.status):
        text = (
            f"ended {last.status} at {last.ended_at}, the flow says {flow.last_run_status} at "
            f"{flow.last_run_at}"
        )
        yield Violation("record", tell(flow, [last], text))
    success = max((run.ended_at for run in ended if run.succeeded and run.ended_at), default=None)
    if flow.last_success_at != success:
        text = f"succeeded last at {success}, the flow says {flow.last_success_at}"
        yield Violation("record", tell(flow, [last], text))


def wrong_times(flow: Flow, runs: list[FlowRun], rows: list[Row]) -> Iterator[Violation]:
    """A flow works between the start and the end of its run."""
    by_id = {run.id: run for run in runs}
    for row in rows:
        run = by_id.get(row.run_id)
        if run is None or run.started_at is None or run.ended_at is None:
            continue
        if not run.started_at <= row.begun_at <= row.written_at <= run.ended_at:
            text = (
                f"in progress from {run.started_at} to {run.ended_at}, but the flow worked from "
                f"{row.begun_at} to {row.written_at}"
            )
            yield Violation("record", tell(flow, [run], text))


def harmed_runs(flow: Flow, runs: list[FlowRun], facts: Facts) -> Iterator[Violation]:
    """A run fails for what it does itself, or for what was done to its process or database."""
    for run in runs:
        if flow.kind == FAILS_BY_PLAN and run.succeeded:
            yield Violation("harmed", tell(flow, [run], "succeeded, and raises"))
        if run.status != "failed" or any(run.overlaps(span) for span in facts.outages):
            continue
        if run.error_type == PLANNED and flow.kind == FAILS_BY_PLAN:
            continue
        cut_off = facts.cut_off[run.process]
        disturbed = facts.disturbed[run.process] + cut_off
        if was_lost(run) and any(run.overlaps(span) for span in disturbed):
            continue
        if run.error_type in UNREACHABLE and any(run.overlaps(span) for span in cut_off):
            continue
        text = (
            f"{run.error_type} after {run.started_at} to {run.ended_at}, and nobody harmed its "
            f"process {run.process}: {run.error_message}"
        )
        yield Violation("harmed", tell(flow, [run], text))


def read_history(dumped: dict[str, Any], done: list[int]) -> History:
    """Read what the ledger has dumped."""
    return History(
        flows=[read_flow(row) for row in dumped["flows"]],
        runs=[read_run(row) for row in dumped["runs"]],
        rows=[
            Row(
                run_id=row["run_id"],
                flow_name=row["flow_name"],
                slot=datetime.fromisoformat(row["slot"]),
                attempt=row["attempt"],
                part=row["part"],
                begun_at=datetime.fromisoformat(row["begun_at"]),
                written_at=datetime.fromisoformat(row["written_at"]),
            )
            for row in dumped["rows"]
        ],
        beats=dumped["beats"],
        done=done,
    )


def read_flow(row: dict[str, Any]) -> Flow:
    """Read a row of `data_flows`."""
    return Flow(
        id=row["id"],
        name=row["name"],
        kind=row["configuration"]["kind"],
        on_lost=row["configuration"]["on_lost"],
        every=timedelta(seconds=row["run_interval"]),
        next_run_at=datetime.fromisoformat(row["next_run_at"]),
        last_slot_at=read_time(row["last_slot_at"]),
        last_run_at=read_time(row["last_run_at"]),
        last_run_status=row["last_run_status"],
        last_success_at=read_time(row["last_success_at"]),
        window_starts_at=read_time(row["window_starts_at"]),
    )


def read_run(row: dict[str, Any]) -> FlowRun:
    """Read a row of `data_flow_runs`."""
    return FlowRun(
        id=row["id"],
        flow_id=row["data_flow_id"],
        status=row["status"],
        trigger=row["trigger"],
        slot=datetime.fromisoformat(row["scheduled_for"]),
        attempt=row["attempt"],
        missed_slots=row["missed_slots"],
        window_start=datetime.fromisoformat(row["window_start"]),
        window_end=datetime.fromisoformat(row["window_end"]),
        started_at=read_time(row["started_at"]),
        ended_at=read_time(row["ended_at"]),
        lease_expires_at=read_time(row["lease_expires_at"]),
        worker=row["worker"],
        error_type=row["error_type"],
        error_message=row["error_message"],
        rows=(row["result"] or {}).get("rows", 0),
    )


def read_time(text: str | None) -> datetime | None:
    """Read a time that may be missing."""
    return datetime.fromisoformat(text) if text else None

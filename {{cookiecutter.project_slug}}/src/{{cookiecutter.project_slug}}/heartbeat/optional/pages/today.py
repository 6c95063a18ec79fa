"""The start page: what is wrong, in words, and a day of runs and beats in one picture.

Whatever the size of the history, the database counts the runs of a flow by parts of the day, and
bars are merged until the page is small.
"""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from math import isfinite
from statistics import median
from typing import Any, NamedTuple

import sqlalchemy as sa
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy.orm import Session

from ...core import Heartbeat
from ...db.expressions import epoch_seconds
from ...db.stored import readable
from ...errors import ScheduleError
from ...models import DataFlow, DataFlowBeat, DataFlowRun, RunStatus
from ...runs.register import register
from ...runs.request import rule_of
from ...runs.unreadable import problem_of
from ...schedules.rule import next_slots, slots_after
from ...settings import BEATS_MISSED
from .charts import Part, Span, merge, merge_to_fit, time_ticks
from .flows import STATES, TROUBLE, selected, state_counts, state_rank
from .rendering import page
from .work import oldest_pending, workers

BEHIND, AHEAD = timedelta(hours=24), timedelta(hours=6)
# With more flows than MAX_LANES: the first ones of those in trouble or running, and the next ones.
MAX_LANES, FIRST_LANES, NEXT_LANES = 40, 10, 10
# All bars together, and the slots of a flow: enough for one a minute.
MAX_BARS, MAX_SLOTS = 150, 361
# The runs of a flow are counted in parts of the day, so many of them for all flows together.
MAX_PARTS = 1_000
# The seconds that a pixel of a wide picture stands for, and those of the parts of other rows.
GAP, BEAT_PART, DENSITY_PART = 120, 120, 900
LEVELS = 4


class Bar(NamedTuple):
    """A bar: runs of one outcome, and the times of the first and the last one."""

    outcome: str
    span: Span
    begin: datetime
    end: datetime


class Lane(NamedTuple):
    """A flow in the picture. `usual` is the usual duration of its runs, in seconds."""

    name: str
    state: str
    bars: list[Bar]
    planned: list[Span]
    next_slot: datetime | None
    usual: float | None

    def count(self, *outcomes: str) -> int:
        """Return how many runs of the day ended so."""
        return sum(bar.span.runs for bar in self.bars if bar.outcome in outcomes)

    @property
    def last_failed(self) -> int | None:
        """The id of the newest run of the day that failed."""
        return max((b.span.run_id or 0 for b in self.bars if b.outcome == "failed"), default=None)


def today(request: Request) -> Response:
    """Show how all flows are, and what ran in the last 24 hours and is planned next."""
    heartbeat: Heartbeat = request.heartbeat
    register(heartbeat)
    now = heartbeat.clock.now()
    with heartbeat.session() as session:
        counts = state_counts(heartbeat, session)
        total = sum(counts.values())
        lanes = _lanes(heartbeat, session, now, total)
        newest = sa.select(DataFlowBeat.received_at).order_by(DataFlowBeat.id.desc()).limit(1)
        beat_at = readable(session.scalar(newest))
        beats = _beats(session, now)
        all_paused = 0 < total == counts["paused"]
        reasons = _reasons(session) if all_paused else []
        pending = oldest_pending(heartbeat, session, now)
        busiest, worker_count = workers(session, now)
    start, end = now - BEHIND, now + AHEAD
    patience = timedelta(seconds=BEATS_MISSED * heartbeat.settings.expected_every)
    return page(
        request,
        "today.jinja2",
        active="today",
        lanes=lanes,
        counts=counts,
        total=total,
        trouble={state: counts[state] for state in STATES if state in TROUBLE and counts[state]},
        beat_at=beat_at,
        is_silent=beat_at is not None and now - beat_at > patience,
        expected_every=heartbeat.settings.expected_every,
        pause_reasons=reasons,
        all_paused=all_paused,
        pending=pending,
        workers=busiest,
        worker_count=worker_count,
        reaped=sum(beat.reaped for beat in beats),
        axis=(start.timestamp(), end.timestamp()),
        hours=time_ticks(start, end, timedelta(hours=3)),
        beats=merge((Span(beat.first, beat.last) for beat in beats), GAP),
        density=_density(beats) if total > len(lanes) else None,
    )


def _lanes(heartbeat: Heartbeat, session: Session, now: datetime, total: int) -> list[Lane]:
    flows = _flows(heartbeat, session, total)
    ids = [flow.id for flow in flows]
    spans, usual = _ended(session, ids, now)
    active = sa.select(DataFlowRun.data_flow_id, DataFlowRun.id, DataFlowRun.started_at)
    for flow_id, run_id, started_at in session.execute(
        active.where(DataFlowRun.data_flow_id.in_(ids), DataFlowRun.active == 1)
    ):
        if begin := readable(started_at):
            spans[flow_id, "running"] = [(begin.timestamp(), now.timestamp(), 1, run_id)]
    merged = merge_to_fit(spans.values(), MAX_BARS, GAP)
    bars: dict[int, list[Bar]] = defaultdict(list)
    # Failed ones come last, so that they are drawn above the others.
    for (flow_id, outcome), found in sorted(
        zip(spans, merged, strict=True), key=lambda item: item[0][1] == RunStatus.FAILED.value
    ):
        bars[flow_id] += [Bar(outcome, span, _time(span.begin), _time(span.end)) for span in found]
    slots = [_planned(heartbeat, flow, now) for flow in flows]
    lengths = [usual.get(each, 0.0) for each in ids]
    spans_ahead: list[list[Part]] = [
        [(slot, slot + length, 1, None) for slot in each]
        for each, length in zip(slots, lengths, strict=True)
    ]
    planned = merge_to_fit(spans_ahead, MAX_BARS, GAP)
    return [
        Lane(
            name=str(flow.name),
            state=STATES[flow.state_rank],
            bars=bars[flow.id],
            planned=planned[number],
            next_slot=_time(slots[number][0]) if slots[number] else None,
            usual=usual.get(flow.id),
        )
        for number, flow in enumerate(flows)
    ]


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _flows(heartbeat: Heartbeat, session: Session, total: int) -> list[sa.Row[Any]]:
    """Return the flows of the picture with `state_rank`: in trouble, running, then those due next.

    If there are no more than MAX_LANES, all flows.
    """
    identity = DataFlow.id, DataFlow.name, DataFlow.handler, DataFlow.enabled, DataFlow.created_at
    schedule = DataFlow.run_interval, DataFlow.cron, DataFlow.timezone, DataFlow.next_run_at
    # Not as objects of the ORM, which would take as long as the statement.
    rows = selected(heartbeat, "", *identity, *schedule)
    if total <= MAX_LANES:
        return [*session.execute(rows.order_by("state_rank", DataFlow.name).limit(MAX_LANES))]
    needs_eyes = state_rank(heartbeat) <= STATES.index("running")
    first = rows.where(needs_eyes).order_by("state_rank", DataFlow.name).limit(FIRST_LANES)
    due_next = rows.where(~needs_eyes, DataFlow.enabled == sa.true())
    due_next = due_next.order_by(DataFlow.next_run_at).limit(NEXT_LANES)
    return [*session.execute(first), *session.execute(due_next)]


def _ended(
    session: Session, flow_ids: Sequence[int], now: datetime
) -> tuple[dict[tuple[int, str], list[Part]], dict[int, float]]:
    """Return the spans of the day's runs by flow and outcome, and the flows' usual durations.

    A span is what a flow did in a part of the day; a part with one run has its exact times.
    """
    seconds = BEHIND.total_seconds() * len(flow_ids) / MAX_PARTS
    part = epoch_seconds(DataFlowRun.ended_at) // max(GAP, int(seconds))
    columns = [
        DataFlowRun.data_flow_id,
        DataFlowRun.status,
        epoch_seconds(sa.func.min(DataFlowRun.started_at)),
        epoch_seconds(sa.func.max(DataFlowRun.ended_at)),
        sa.func.count(),
        sa.func.max(DataFlowRun.id),
        sa.func.avg(sa.type_coerce(DataFlowRun.duration, sa.Double)),
    ]
    rows: sa.Select[Any] = sa.select(*columns, part.label("part")).where(
        DataFlowRun.data_flow_id.in_(flow_ids),
        DataFlowRun.status.in_((RunStatus.SUCCESS.value, RunStatus.FAILED.value)),
        DataFlowRun.ended_at.between(now - BEHIND, now + AHEAD),
    )
    spans: dict[tuple[int, str], list[Part]] = defaultdict(list)
    durations: dict[int, list[float]] = defaultdict(list)
    for flow_id, status, begin, end, count, run_id, mean, _part in session.execute(
        rows.group_by(DataFlowRun.data_flow_id, DataFlowRun.status, "part")
    ):
        if end is not None:  # otherwise unreadable, as is a run that began before 1970
            first = min(begin, end) if begin and begin > 0 else end
            spans[flow_id, status].append((first, end, count, run_id))
            if mean is not None and isfinite(mean):
                durations[flow_id].append(mean)
    return spans, {flow_id: median(found) for flow_id, found in durations.items()}


def _planned(heartbeat: Heartbeat, flow: Any, now: datetime) -> list[float]:
    """Return the slots of the next hours, in seconds since 1970; a slot that is due is now."""
    if not flow.enabled or problem_of(flow) or flow.handler not in heartbeat.flows:
        return []
    with suppress(ScheduleError):
        rule = rule_of(heartbeat, flow)
        first = next_slots(rule, DataFlow.slots_begin(flow, now), now, 1)[0]
        end = now + AHEAD
        later = takewhile(end.__gt__, islice(slots_after(rule, first), MAX_SLOTS))
        return [slot.timestamp() for slot in (max(first, now), *later) if slot < end]
    return []


class _BeatPart(NamedTuple):
    """The beats of a part of the day. Times are seconds since 1970."""

    first: int
    last: int
    triggered: int
    failed: int
    reaped: int


def _beats(session: Session, now: datetime) -> list[_BeatPart]:
    """Return the beats of the day, by parts of it, in order of time."""
    part = (epoch_seconds(DataFlowBeat.received_at) // BEAT_PART).label("part")
    counts = DataFlowBeat.flows_triggered, DataFlowBeat.flows_failed, DataFlowBeat.runs_reaped
    sums = [sa.func.sum(sa.type_coerce(each, sa.BigInteger)) for each in counts]
    edges = [each(DataFlowBeat.received_at) for each in (sa.func.min, sa.func.max)]
    rows = sa.select(part, *map(epoch_seconds, edges), *sums).where(
        DataFlowBeat.received_at.between(now - BEHIND, now)
    )
    found = session.execute(rows.group_by("part").order_by("part"))
    return [
        _BeatPart(*(int(each) if isfinite(each) else 0 for each in row[1:]))
        for row in found
        if row.part is not None
    ]


def _density(beats: Sequence[_BeatPart]) -> dict[str, Any]:
    """Return the runs of all flows that beats began, as spans by level, and those that failed."""
    parts: dict[int, int] = defaultdict(int)
    for beat in beats:
        parts[beat.first // DENSITY_PART] += beat.triggered
    most = max(parts.values(), default=0)
    levels: dict[int, list[Span]] = {level: [] for level in range(1, LEVELS + 1)}
    for part, runs in parts.items():
        if runs:
            begin = part * DENSITY_PART
            levels[-(-runs * LEVELS // most)].append(Span(begin, begin + DENSITY_PART, runs))
    failed = [Span(beat.first, beat.last, beat.failed) for beat in beats if beat.failed]
    return {"levels": levels, "failed": merge(failed, GAP), "runs": sum(parts.values())}


def _reasons(session: Session) -> list[str]:
    """Return why flows are paused: at most two reasons."""
    reason = sa.select(DataFlow.disabled_reason).distinct().limit(2)
    return [str(each) for each in session.scalars(reason) if each]

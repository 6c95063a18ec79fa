"""The rhythm of the schedulers: how regularly each source beats, and which flows that serves.

A beat runs the flows that are due, whichever source sends it, and no slot runs twice. Two
schedulers at once are therefore safe, and one of them may stop unnoticed: it is named here.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import chain, pairwise
from math import ceil
from statistics import median
from typing import NamedTuple

from sqlalchemy import select, true
from sqlalchemy.orm import Session

from ...db.stored import Unreadable
from ...errors import ScheduleError
from ...models import DataFlow, DataFlowBeat
from ...schedules.cron import DAY, read_cron
from ...schedules.every import EARLY_SHARE, MAX_EARLY
from ...settings import BEATS_MISSED
from .lists import show_text
from .members import Rhythm

# How many of the newest beats are read: a bounded number, however many there are.
RECENT_BEATS = 2_000
# The sources with the newest beats; a scheduler in the cloud may call from many addresses.
MAX_SOURCES = 20
MAX_NAMES = 20
# Fewer gaps show no rhythm.
MIN_GAPS = 5
# A shorter silence does not show that a source has stopped.
MIN_SILENCE = 60.0

# The times of beats by source.
Beats = dict[str, list[datetime]]


class Interval(NamedTuple):
    """The shortest time between two slots of a flow, in seconds."""

    seconds: float
    flow: str


def recent_beats(session: Session) -> Beats:
    """Return the times of the newest RECENT_BEATS beats by source, newest first."""
    newest = select(DataFlowBeat.source, DataFlowBeat.received_at).order_by(DataFlowBeat.id.desc())
    beats: Beats = defaultdict(list)
    for source, received_at in session.execute(newest.limit(RECENT_BEATS)):
        if not isinstance(received_at, Unreadable):
            beats[show_text(source)].append(received_at)
    return beats


def rhythms(session: Session, now: datetime, beats: Beats | None = None) -> list[Rhythm]:
    """Return the rhythm of each source of `beats`, by default of `recent_beats`.

    The source of the newest beat comes first. If there are several, the rhythm of all sources
    together precedes them.
    """
    beats = beats or recent_beats(session)
    intervals = _intervals(session)
    found = [_rhythm(source, beats[source], intervals, now) for source in [*beats][:MAX_SOURCES]]
    if len(beats) <= 1:
        return found
    together = _rhythm(None, [*chain(*beats.values())], intervals, now)
    calling = sum(each.beats > MIN_GAPS and not each.has_stopped for each in found)
    if calling > 1:
        together.verdict += f" {calling} sources call, which is safe: no slot runs twice."
    return [together, *found]


def _rhythm(
    source: str | None, received: Sequence[datetime], intervals: Sequence[Interval], now: datetime
) -> Rhythm:
    times = sorted(received)
    gaps = sorted((after - before).total_seconds() for before, after in pairwise(times))
    p95 = gaps[ceil(0.95 * len(gaps)) - 1] if gaps else 0.0
    is_known = len(gaps) >= MIN_GAPS
    silence = (now - times[-1]).total_seconds()
    missed = [each.flow for each in intervals if is_known and _longest_gap(each) < p95]
    rhythm = Rhythm(
        source=source,
        beats=len(times),
        last_beat_at=times[-1],
        median_gap=median(gaps) if gaps else None,
        p95_gap=p95 if gaps else None,
        worst_gap=gaps[-1] if gaps else None,
        has_stopped=is_known and silence > max(MIN_SILENCE, BEATS_MISSED * p95),
        missed_flows=len(missed),
        missed_flow_names=missed[:MAX_NAMES],
        verdict="",
    )
    rhythm.verdict = _verdict(rhythm, silence)
    return rhythm


def _longest_gap(interval: Interval) -> float:
    """Return the longest gap that loses no slot: a beat waits for a slot a moment later."""
    return interval.seconds + min(EARLY_SHARE * interval.seconds, MAX_EARLY)


def _verdict(rhythm: Rhythm, silence: float) -> str:
    name = rhythm.source or "all sources together"
    if rhythm.beats <= MIN_GAPS:
        return f"Too few beats of {name} to know the rhythm."
    usual = f"every {_rounded(rhythm.median_gap)}"
    if rhythm.has_stopped:
        return f"No beat of {name} for {_rounded(silence)}: before, one came {usual}."
    if not rhythm.missed_flows:
        return f"A beat of {name} comes {usual}: often enough for each flow."
    names = ", ".join(rhythm.missed_flow_names)
    more = rhythm.missed_flows - len(rhythm.missed_flow_names)
    return (
        f"A beat of {name} comes {usual}, but up to {_rounded(rhythm.p95_gap)} after the one "
        f"before: too late for {names}{f' and {more} more' if more else ''}."
    )


def _rounded(seconds: float | None) -> str:
    seconds = seconds or 0.0
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _intervals(session: Session) -> list[Interval]:
    """Return the intervals of the enabled flows, the shortest first."""
    columns = DataFlow.name, DataFlow.run_interval, DataFlow.cron
    found = []
    for name, every, cron in session.execute(select(*columns).where(DataFlow.enabled == true())):
        # Rows that were changed by hand may have neither.
        seconds = every if isinstance(every, int) else _shortest_gap(show_text(cron))
        if seconds:
            found.append(Interval(seconds, show_text(name)))
    return sorted(found)


@lru_cache(maxsize=1_000)
def _shortest_gap(cron: str) -> float | None:
    """Return the shortest time between two times of an expression; None if it is invalid."""
    try:
        times: list[timedelta] = read_cron(cron).times
    except ScheduleError:
        return None
    return min((b - a).total_seconds() for a, b in pairwise([*times, times[0] + DAY]))

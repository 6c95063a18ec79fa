"""The page of beats: how regularly each scheduler calls, and which flows that serves."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import chain, pairwise
from typing import NamedTuple

from pyramid.request import Request
from pyramid.response import Response

from ...core import Heartbeat
from ...errors import InputError
from ...runs.register import register
from ...views.resources import read_query
from ..history.lists import list_beats
from ..history.members import PageQuery
from ..history.rhythms import MAX_SOURCES, recent_beats, rhythms
from .charts import Span, merge, time_ticks
from .rendering import page

PAGE_SIZE = 50
# Seconds: the upper ends of the bars of the histogram.
BINS = [1, 5, 15, 30, 45, 60, 75, 90, 120, 180, 300, 420, 600, 900, 1_800, 3_600]
BINS += [7_200, 21_600, 43_200, 86_400, 172_800, 604_800]
# The steps of the axis: the first one that gives no more than MAX_TICKS.
STEPS = [timedelta(seconds=each) for each in (60, 300, 900, 3_600, 10_800, 21_600, 86_400, 604_800)]
MAX_TICKS = 12
# The part of the axis that a dot covers: closer ones would be drawn above each other.
DOT = 1 / 500


class Bin(NamedTuple):
    """The number of gaps between beats that are longer than `low` and at most `high` seconds."""

    low: float | None
    high: float | None
    gaps: int


def beats(request: Request) -> Response:
    """Show the rhythms of the schedulers, and a page of the beats from the parameter `before`."""
    heartbeat: Heartbeat = request.heartbeat
    register(heartbeat)
    now = heartbeat.clock.now()
    query = PageQuery.model_construct()
    with suppress(InputError):  # an odd address shows the first page
        query = read_query(request, PageQuery)
    with heartbeat.session() as session:
        by_source = recent_beats(session)
        judged = rhythms(session, now, by_source)
        found = list_beats(session, limit=PAGE_SIZE + 1, before=query.before)
    times = sorted(chain(*by_source.values()))
    start = times[0] if times else now
    step = next((each for each in STEPS if (now - start) / each <= MAX_TICKS), (now - start) / 4)
    length = (now - start).total_seconds() * DOT
    return page(
        request,
        "beats.jinja2",
        active="beats",
        found=found[:PAGE_SIZE],
        following=found[PAGE_SIZE - 1].id if len(found) > PAGE_SIZE else None,
        is_first=query.before is None,
        rhythms=judged,
        dots=_dots(by_source, length),
        axis=(start.timestamp(), now.timestamp()),
        ticks=time_ticks(start, now, step),
        step=step,
        bins=_histogram(times),
        expected_every=heartbeat.settings.expected_every,
    )


def _dots(by_source: Mapping[str, Sequence[datetime]], length: float) -> dict[str, list[Span]]:
    """Return the beats of each source that is judged; one dot for those closer than `length`."""
    return {
        source: merge((Span(t.timestamp(), t.timestamp()) for t in times), length)
        for source, times in [*by_source.items()][:MAX_SOURCES]
    }


def _histogram(times: Sequence[datetime]) -> list[Bin]:
    """Return how often each length of a gap between beats occurs, without empty ends."""
    counts = [0] * (len(BINS) + 1)
    for earlier, later in pairwise(times):
        counts[bisect_left(BINS, (later - earlier).total_seconds())] += 1
    used = [number for number, count in enumerate(counts) if count]
    if not used:
        return []
    edges = [None, *BINS, None]
    return [Bin(edges[n], edges[n + 1], counts[n]) for n in range(used[0], used[-1] + 1)]

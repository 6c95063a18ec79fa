"""What the page of a flow draws: the durations of its runs, and the time that they cover."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple

from .charts import log_scale, scale
from .words import lasted

WIDTH, HEIGHT = 720, 140
BAR_WIDTH = 1_000
# A shorter gap is invisible, and no more of them are listed.
MAX_GAPS = 10
Run = Mapping[str, Any]


class Scatter(NamedTuple):
    """The durations of runs: a path for each outcome, and ticks as (place, text)."""

    paths: dict[str, str]
    ticks: list[tuple[float, str]]
    start: datetime | None
    end: datetime | None
    summary: str


class Coverage(NamedTuple):
    """The windows of successful runs: bars as (place, width), and the gaps between them."""

    bars: list[tuple[float, float]]
    gaps: list[tuple[datetime, datetime]]
    start: datetime
    end: datetime


def scatter(runs: Sequence[Run]) -> Scatter | None:
    """Return the picture of the runs that have a duration, which are given newest first."""
    drawn = [run for run in runs if run["started_at"] and run["duration"] is not None]
    if not drawn:
        return None
    start, end = (pick(run["started_at"] for run in drawn) for pick in (min, max))
    span = (end - start).total_seconds()
    durations = [max(run["duration"], 0.001) for run in drawn]
    low = 10.0 ** math.floor(math.log10(min(durations)))
    high = max(10.0 ** math.ceil(math.log10(max(durations))), 10 * low)
    paths = {"success": "", "failed": ""}
    for run, duration in zip(drawn, durations, strict=True):
        left = scale((run["started_at"] - start).total_seconds(), 0, span, WIDTH)
        top = round(HEIGHT - log_scale(duration, low, high, HEIGHT), 1)
        if run["status"] == "failed":
            paths["failed"] += f"M{left - 3:g} {top - 3:g}l6 6m0-6l-6 6"
        else:
            paths["success"] += f"M{left:g} {top:g}h.01"
    powers = range(round(math.log10(low)), round(math.log10(high)) + 1)
    ticks = [
        (round(HEIGHT - log_scale(10.0**power, low, high, HEIGHT), 1), lasted(10.0**power))
        for power in powers
    ]
    failed = sum(run["status"] == "failed" for run in drawn)
    summary = (
        f"{len(drawn)} runs, {failed} of them failed: "
        f"from {lasted(min(durations))} to {lasted(max(durations))}"
    )
    return Scatter({k: v for k, v in paths.items() if v}, ticks, start, end, summary)


def coverage(runs: Sequence[Run], now: datetime) -> Coverage | None:
    """Return the time that the windows of successful runs cover, up to `now`.

    It begins with the oldest run that is not one of a backfill: `runs` are the newest ones, and
    those between an old window and theirs may be missing.
    """
    successes = [
        run
        for run in runs
        if run["status"] == "success" and run["window_start"] and run["window_end"]
    ]
    if not successes:
        return None
    known = [run for run in successes if run["trigger"] != "backfill"] or successes
    since = min(run["window_start"] for run in known)
    windows = sorted(
        (max(run["window_start"], since), run["window_end"])
        for run in successes
        if run["window_end"] > since
    )
    spans = [windows[0]]
    for begin, end in windows[1:]:
        if begin <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(spans[-1][1], end)
        else:
            spans.append((begin, end))
    first, last = spans[0][0], max(spans[-1][1], now)
    length = (last - first).total_seconds()
    bars = []
    for begin, end in spans:
        left, right = (
            scale((each - first).total_seconds(), 0, length, BAR_WIDTH) for each in (begin, end)
        )
        bars.append((left, round(max(right - left, 1), 1)))
    gaps = [(one[1], two[0]) for one, two in pairwise(spans)]
    return Coverage(bars, gaps[-MAX_GAPS:], first, last)

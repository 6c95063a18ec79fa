"""Scales and ticks of the pictures. Pure functions; the templates draw."""

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

__all__ = ["bars", "log_scale", "round_ticks", "scale", "strip", "time_ticks"]

STRIP_RUNS, STRIP_HEIGHT, STRIP_STEP, STRIP_LOWEST = 30, 24, 5, 3
_STEPS = (1, 2, 5, 10)
# Logarithms begin here: a microsecond.
SMALLEST = 1e-6
# The width of the shortest bar.
NARROWEST = 1.5


class Span(NamedTuple):
    """Runs that are drawn as one bar; `run_id` is the newest one. Times are seconds since 1970."""

    begin: float
    end: float
    runs: int = 1
    run_id: int | None = None


# A span before it is merged: a plain tuple, of which there may be thousands.
Part = tuple[float, float, int, int | None]


class Strip(NamedTuple):
    """A strip of runs, oldest first: for each outcome the path of its bars."""

    width: int
    paths: dict[str, str]
    summary: str


def scale(value: float, low: float, high: float, size: float) -> float:
    """Return the place of `value` between `low` and `high` on an axis of `size`, within it."""
    if high <= low:
        return 0.0
    return round(min(max((value - low) / (high - low), 0.0), 1.0) * size, 1)


def log_scale(value: float, low: float, high: float, size: float) -> float:
    """Return the place of a value above zero on a logarithmic axis."""
    place, first, last = (math.log10(max(each, SMALLEST)) for each in (value, low, high))
    return scale(place, first, last, size)


def round_ticks(high: float, count: int = 4) -> list[float]:
    """Return about `count` round values from zero up to `high`."""
    if high <= 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(high / count))
    step = next(each * power for each in _STEPS if each * power * count >= high)
    return [round(step * number, 10) for number in range(int(high / step) + 1)]


def time_ticks(start: datetime, end: datetime, step: timedelta) -> list[datetime]:
    """Return the moments between two times at multiples of `step`, counted from midnight UTC."""
    day = start.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = math.ceil((start - day) / step)
    last = math.floor((end - day) / step)
    return [day + step * number for number in range(first, last + 1)]


def strip(runs: Sequence[Any]) -> Strip:
    """Return the strip of a flow's newest runs, which are given oldest first.

    The height of a bar is its run's duration beside the longest one of them.
    """
    shown = runs[-STRIP_RUNS:]
    longest = max((run.duration or 0.0 for run in shown), default=0.0)
    paths = {"success": "", "failed": "", "active": ""}
    counts = dict.fromkeys(paths, 0)
    for number, run in enumerate(shown, STRIP_RUNS - len(shown)):
        outcome = run.status if run.status in paths else "active"
        room = STRIP_HEIGHT - STRIP_LOWEST - (4 if outcome == "failed" else 0)
        height = STRIP_LOWEST + scale(run.duration or 0.0, 0.0, longest, room)
        counts[outcome] += 1
        left = number * STRIP_STEP + 2
        paths[outcome] += f"M{left} {STRIP_HEIGHT}v-{height:g}"
        if outcome == "failed":  # a dot above the bar, so that colour is not the only sign
            paths[outcome] += "m0-3.5h.01"
    words = {"success": "succeeded", "failed": "failed", "active": "not ended"}
    parts = [f"{count} {words[outcome]}" for outcome, count in counts.items() if count]
    summary = f"Last {len(shown)} runs: {', '.join(parts)}" if shown else "No runs yet"
    return Strip(
        STRIP_RUNS * STRIP_STEP, {key: path for key, path in paths.items() if path}, summary
    )


def merge(spans: Iterable[Part], gap: float) -> list[Span]:
    """Return spans in order of time; those that are at most `gap` seconds apart become one."""
    merged: list[Span] = []
    ordered = sorted(spans)
    if not ordered:
        return merged
    begin, end, runs, run_id = ordered[0]
    for first, last, count, newest in ordered[1:]:
        if first - end <= gap:
            end = max(end, last)
            runs += count
            run_id = newest or run_id
        else:
            merged.append(Span(begin, end, runs, run_id))
            begin, end, runs, run_id = first, last, count, newest
    return [*merged, Span(begin, end, runs, run_id)]


def merge_to_fit(lanes: Iterable[Iterable[Part]], count: int, gap: float) -> list[list[Span]]:
    """Merge the spans of each lane until there are at most `count` in all lanes together.

    gap: how many seconds apart spans may be at first; it is tripled until the spans fit.
    """
    merged = [merge(spans, gap) for spans in lanes]
    while sum(map(len, merged)) > max(count, len(merged)):
        gap *= 3
        merged = [merge(spans, gap) for spans in merged]
    return merged


def bars(
    spans: Iterable[Span], axis: tuple[float, float], size: float, top: float, height: float
) -> str:
    """Return the path of bars on an axis of `size`. `axis` is its beginning and its end."""
    path = ""
    for span in spans:
        left, right = (scale(each, *axis, size) for each in span[:2])
        width = max(round(right - left, 1), NARROWEST)
        path += f"M{left:g} {top:g}h{width:g}v{height:g}h-{width:g}z"
    return path

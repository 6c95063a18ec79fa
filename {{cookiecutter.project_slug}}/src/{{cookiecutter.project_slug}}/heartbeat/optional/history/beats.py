"""The command that shows the beats, and how regularly they come."""

from typing import Any

import click

from ...cli.application import command
from ...cli.output import json_option, print_json, print_table
from ...core import Heartbeat
from ...printing import printable
from .lists import list_beats
from .members import BeatList, Rhythm
from .rhythms import rhythms
from .runs import page_options


@command
@json_option
@page_options
def beats(heartbeat: Heartbeat, *, as_json: bool, **options: Any) -> None:
    """Show the beats, newest first, and how regularly each source sends them."""
    with heartbeat.session() as session:
        found = list_beats(session, **options)
        judged = rhythms(session, heartbeat.clock.now())
    if as_json:
        print_json(BeatList(beats=found, rhythms=judged))
        return
    print_table("beats", [_short_names(beat.model_dump()) for beat in found])
    if judged:
        click.echo()
        print_table("rhythms", [_rhythm_line(rhythm) for rhythm in judged])
        click.echo()
    for rhythm in judged:
        click.echo(printable(rhythm.verdict))


def _short_names(beat: dict[str, Any]) -> dict[str, Any]:
    """Return the members of a beat with the headers of their columns."""
    names = {"id": "beat", "received_at": "received (UTC)", "duration": "seconds"}
    return {names.get(key, key.partition("_")[2] or key): value for key, value in beat.items()}


def _rhythm_line(rhythm: Rhythm) -> dict[str, Any]:
    return {
        "source": rhythm.source or "all together",
        "beats": rhythm.beats,
        "last (UTC)": rhythm.last_beat_at,
        "median gap (s)": rhythm.median_gap,
        "p95 (s)": rhythm.p95_gap,
        "worst (s)": rhythm.worst_gap,
    }

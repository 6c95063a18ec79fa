"""The command `heartbeat rehearse`."""

from contextlib import suppress
from datetime import MAXYEAR, MINYEAR, datetime
from typing import Any

import click

from ...cli.application import application, config_option
from ...cli.names import name_argument
from ...cli.output import cell, json_option, print_json, print_table, record
from ...cli.values import values_option
from ...migrations import require_current
from ...models import RunStatus
from ...printing import printable
from .prepare import prepare
from .rehearsal import RehearsalMembers
from .rehearsal import rehearse as rehearse_run

# Left as they are in texts of several lines.
KEPT = "\n\t"
EXAMPLE = "valid is, for example, 2026-01-01T00:00/2026-01-02T00:00"


def _read_window(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> tuple[datetime, datetime] | None:
    if text is None:
        return None
    with suppress(ValueError):
        start, end = map(datetime.fromisoformat, text.split("/"))
        # In the first and the last year, the same time in UTC may not exist.
        if all(MINYEAR < time.year < MAXYEAR for time in (start, end)):
            return start, end
    raise click.BadParameter(f"{text!r} is not FROM/TO in ISO 8601: {EXAMPLE}")


@click.command()
@config_option
@json_option
@name_argument
@click.option(
    "--window",
    "times",
    metavar="FROM/TO",
    callback=_read_window,
    help="The time span to work on, in ISO 8601; without a zone, in the flow's.",
)
@values_option
def rehearse(config: str, name: str, *, as_json: bool, **options: Any) -> None:
    """Run the flow NAME now in its real transaction, and roll back what it wrote.

    Shows the result, the log, and the rows that it has written. Nothing is recorded, and its
    schedule does not change. What it does elsewhere, such as sending a mail, really happens.

    The exit code is 1 if it failed.
    """
    # Without registering the flows, which would write their rows.
    with application(config) as heartbeat:
        # First, since a connection would create a database of SQLite that does not exist.
        require_current(heartbeat.engine)
        ended = rehearse_run(heartbeat, prepare(heartbeat, name, **options))
    if as_json:
        print_json(ended)
    else:
        _show(ended)
    if ended.status != RunStatus.SUCCESS:
        raise SystemExit(1)


def _show(ended: RehearsalMembers) -> None:
    """Print a rehearsal for people."""
    shown = {name: getattr(ended, name) for name in ("flow", "status", "duration")}
    shown["status"] += "; all that it wrote is rolled back"
    shown["window"] = f"{cell(ended.window_start)} to {cell(ended.window_end)} UTC"
    click.echo(record(shown | {"result": ended.result, "error": ended.error}))
    if ended.tables is None:
        click.echo("\nrows written: not known, since its process was ended")
    else:
        click.echo()
        print_table("rows written", [{"table": k, **rows} for k, rows in ended.tables.items()])
    for words, number in (ended.other_statements or {}).items():
        click.echo(f"and by {number} x {words}, whose rows are not known")
    # Texts of several lines come last.
    for name in ("error_backtrace", "log"):
        if text := getattr(ended, name):
            click.echo(f"\n{name}\n{printable(text.rstrip(), kept=KEPT)}")

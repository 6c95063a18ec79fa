"""The output of commands: tables and records for people, JSON for programs."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime

import click
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from ..members import as_json
from ..printing import printable

# More columns than any table needs.
UNLIMITED = 10**6

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def print_json(value: object) -> None:
    """Print members, a list of them, or a mapping."""
    click.echo(json.dumps(value, default=as_json, indent=2))


def print_table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print a table, or a record for each row where the terminal is too narrow for a table.

    Words are never cut. The cells of the first column stay on one line.
    """
    if not rows:
        click.echo(f"no {title}")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number, name in enumerate(rows[0]):
        table.add_column(name, no_wrap=number == 0)
    for row in rows:
        table.add_row(*map(cell, row.values()))
    console = Console(width=UNLIMITED, markup=False, highlight=False)
    needed = Measurement.get(console, console.options, table)
    # A pipe gets a line for each row, as other programs expect.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else needed.maximum
    if needed.minimum > width:
        click.echo("\n\n".join(map(record, rows)))
        return
    console.width = width
    console.print(table)


def record(row: Mapping[str, object]) -> str:
    """Return a line for each value that is not empty: its name, and the value."""
    shown = {name: text for name, value in row.items() if (text := cell(value))}
    width = max(map(len, shown))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in shown.items())


def cell(value: object) -> str:
    """Return a value in one line."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else printable(" ".join(str(value).split()))

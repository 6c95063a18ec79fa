"""1,000,000 flows and 100 workers: the measured capacity, and whether the reckoning with it holds.

The capacity is measured with a backlog. From it follows the interval at which that many flows need
a share of it. Then they run at this interval, and no run may come late.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from .bench import Bench, say
from .databases import settle
from .growth import KIND
from .project import FLOW_COLUMNS, OURS, RUN_COLUMNS, load_flows, make_due

SCRIPT = Path(__file__).with_name("simulated.py")
# The share of the capacity that the flows need in the second phase.
SHARE = 0.5
PROCESSES, THREADS = 2, 50
SUCCEEDED = RUN_COLUMNS.c.status == "success"
PATIENCE = 900.0
TITLE = "A simulation of many flows and workers"
TEXT = (
    "The workers are threads of {processes} processes, which take runs by the engine's own code; "
    "a queue stands in for the broker. The capacity is that with a backlog. Then the flows run at "
    "the interval at which they need {share:.0%} of it. Late is the time from a slot to the start."
)


def simulation(bench: Bench) -> None:
    """Measure the capacity and the lateness, with many flows."""
    sizes = bench.sizes
    with bench.database(KIND) as url:
        engine = bench.project.migrate(url)
        beat_once(bench, url)
        say(f"loading {sizes.simulated:,} flows")
        load_flows(engine, sizes.simulated)
        with simulated(bench, url) as process:
            capacity = measure_backlog(engine, process, sizes.backlog)
            say(f"capacity: {capacity:.0f} runs/s")
            wait_for_beats(process)
        rate = capacity * SHARE
        spread(engine, rate, sizes.steady)
        began = now_of(engine)
        with simulated(bench, url) as process:
            time.sleep(sizes.steady)
            ended = now_of(engine)
            durations = wait_for_beats(process)
        rows = [
            ["capacity with a backlog", f"{capacity:,.0f} runs/s"],
            ["interval at which they need that share", f"{sizes.simulated / rate / 3600:.2f} h"],
            *steady_rows(engine, began, ended, rate),
            ["reply to a beat, median", f"{middle(durations):.3f} s"],
            ["reply to a beat, longest", f"{max(durations):.3f} s"],
            *size_rows(engine),
        ]
        engine.dispose()
    text = TEXT.format(processes=PROCESSES, share=SHARE)
    head = [f"{sizes.simulated:,} flows, {PROCESSES * THREADS} workers", "measured"]
    bench.report.add_section(TITLE, text, head, rows)


def environment_of(bench: Bench, url: str) -> dict[str, str]:
    """Return the environment of the project, whose broker nobody calls."""
    celery = {"executor": "celery", "celery_broker_url": "redis://127.0.0.1:1"}
    return bench.project.environment(url, **celery)


def beat_once(bench: Bench, url: str) -> None:
    """Register the flows."""
    command = [bench.project.command("heartbeat"), "beat", "-c", "production.ini"]
    folder, environment = bench.project.folder, environment_of(bench, url)
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)


@contextmanager
def simulated(bench: Bench, url: str) -> Iterator[subprocess.Popen[str]]:
    """Start the beats and the workers, and end them."""
    folder = bench.project.folder
    with (folder / "simulation.log").open("wb") as log:
        process = subprocess.Popen(
            [bench.project.command("python"), str(SCRIPT), str(PROCESSES), str(THREADS)],
            cwd=folder,
            env=environment_of(bench, url),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_beats(process: subprocess.Popen[str]) -> list[float]:
    """End the beats; return the seconds that each reply took."""
    output, _ = process.communicate(timeout=PATIENCE)
    return list(map(float, json.loads(output.splitlines()[-1])))


def measure_backlog(engine: sa.Engine, process: subprocess.Popen[str], count: int) -> float:
    """Make so many flows due; return the runs a second from the first end to the last."""
    make_due(engine, first=count)
    ends = sa.func.min(RUN_COLUMNS.c.ended_at), sa.func.max(RUN_COLUMNS.c.ended_at)
    wanted = sa.select(sa.func.count(), *ends).where(SUCCEEDED)
    deadline, found = time.monotonic() + PATIENCE, 0
    while found < count:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{count} flows were due, but {found} runs have succeeded")
        time.sleep(0.5)
        with engine.connect() as connection:
            found, first, last = connection.execute(wanted).one()
    return count / float((last - first).total_seconds())


def spread(engine: sa.Engine, rate: float, seconds: float) -> None:
    """Make `rate` flows due in each of the next seconds. The others are due tomorrow."""
    make_due(engine, first=0)
    count = int(rate * seconds)
    names = [f"{OURS}{number}" for number in range(1, count + 1)]
    number = sa.cast(sa.func.substr(FLOW_COLUMNS.c.name, len(OURS) + 1), sa.Integer)
    later = sa.func.make_interval(0, 0, 0, 0, 0, 0, number / rate)
    values = {"next_run_at": sa.func.now() + later, "last_slot_at": None}
    values["window_starts_at"] = None
    with engine.begin() as connection:
        chosen = sa.update(FLOW_COLUMNS).where(FLOW_COLUMNS.c.name.in_(names))
        connection.execute(chosen.values(values))
    settle(engine)


def now_of(engine: sa.Engine) -> datetime:
    """Return the time of the database."""
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.now())).scalar_one()


def steady_rows(
    engine: sa.Engine, began: datetime, ended: datetime, rate: float
) -> list[list[str]]:
    """Return how many runs ended, and how late they started, in the second half of the time."""
    half = began + (ended - began) / 2
    late = sa.func.extract("epoch", RUN_COLUMNS.c.started_at - RUN_COLUMNS.c.scheduled_for)
    quantiles = [sa.func.percentile_cont(part).within_group(late) for part in (0.5, 0.99, 1.0)]
    ours = sa.select(sa.func.count(), *quantiles).where(
        SUCCEEDED, RUN_COLUMNS.c.ended_at.between(half, ended)
    )
    waiting = sa.select(sa.func.count()).where(~SUCCEEDED)
    with engine.connect() as connection:
        count, *lateness = connection.execute(ours).one()
        left = connection.scalar(waiting)
    seconds = (ended - half).total_seconds()
    return [
        ["needed at this interval", f"{rate:,.0f} runs/s"],
        ["sustained", f"{count / seconds:,.0f} runs/s"],
        ["late: median, 99 of 100, most", ", ".join(f"{value:.2f} s" for value in lateness)],
        ["not ended at the end", f"{left:,} runs"],
    ]


def size_rows(engine: sa.Engine) -> list[list[str]]:
    """Return the sizes of the flows' table and of its indexes."""
    named = sa.text(
        "SELECT relname, pg_relation_size(indexrelid) FROM pg_index "
        "JOIN pg_class ON pg_class.oid = indexrelid WHERE indrelid = 'data_flows'::regclass "
        "ORDER BY 2 DESC"
    )
    with engine.connect() as connection:
        table = connection.scalar(sa.select(sa.func.pg_table_size("data_flows"))) or 0
        indexes = connection.execute(named).all()
    return [
        ["table data_flows", mebibytes(table)],
        *([f"its index {name}", mebibytes(size)] for name, size in indexes),
    ]


def mebibytes(size: int) -> str:
    """Format a size."""
    return f"{size / 2**20:,.0f} MiB"


def middle(values: list[float]) -> float:
    """Return the median."""
    return sorted(values)[len(values) // 2]

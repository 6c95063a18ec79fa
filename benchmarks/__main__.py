"""Measure everything, print it, and write RESULTS.md: `make bench`; `--help` lists the options."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from . import machine
from .bench import FULL, QUICK, Bench, Sizes, say
from .columns import inserting, single, throughput, tick
from .correctness import correctness
from .growth import growth
from .processes import processes
from .receivers import receivers
from .report import write
from .scrapes import scrapes
from .setup import set_up
from .simulation import simulation
from .workers import workers

PARTS = {
    "throughput": throughput,
    "inserting": inserting,
    "one": single,
    "tick": tick,
    "correctness": correctness,
    "growth": growth,
    "scrapes": scrapes,
    "processes": processes,
    "workers": workers,
    "simulation": simulation,
    "receivers": receivers,
    "set-up": set_up,
}
RESULTS = Path(__file__).parent / "RESULTS.md"

METHOD = """\
- The rendered project is served by `pserve production.ini` with 8 workers, and gets its beats \
over HTTP from one client that keeps its connection. Its flows are rows that share a handler, \
which does nothing, inserts a row through `run.session`, or waits. After each beat the database is \
queried whether all runs are `success`, and whether all rows are there.
- Runs a second: all tasks are due before the clock starts; it stops when the outcome of the last \
is recorded, in the place that the next column names.
- One due task: until its outcome is recorded. For the project, until the reply.
- A tick: the work of the scheduler when nothing is due. For the project, the whole beat over HTTP.
- A scrape: `GET /heartbeat/metrics` over HTTP as an operator.
- Ran twice: 200 tasks due, two schedulers as separate processes; how many tasks were called \
more than once.
- kill -9: the process is killed in a task and started again.
- From `cookiecutter` to the first 200: the project is rendered, sets itself up, and is served by \
`pserve development.ini`. A project of the starter's shape is rendered, too; then come the steps \
of the starter's README: environment, newer pip (not with uv), editable installation with the \
tests' requirements, first migration, its upgrade, first row, tests, and `pserve development.ini`.
- The peers are configured as their own guides do it for production, with 8 threads, processes or \
tasks at once where that is a setting: `benchmarks/peers/` has a short module for each.
- Each peer has a new process and a new database in each round, and the rounds alternate: \
A B C A B C. A ratio is computed within a round.
- Receivers that hang: two servers get beats in turn. The receivers of one accept connections and \
never answer.
- Whatever has a bar is measured in {rounds} rounds. Peers without a bar, peak memory, and slow \
flows among short ones are measured in {few_rounds}; `pserve` alone in {ready_rounds}; a set-up by \
uv in {set_ups}, by pip in {pip_set_ups}. In a round a tick is measured {requests} times, and one \
due task {singles} times.
- Workers: {handed:,} flows are due. The project gets one beat, which hands them over; plain \
Celery gets as many calls of `apply_async`. A worker has so many processes (`-c`) and Celery's \
other defaults. The processes of both sides are new in each measurement, and have worked before it.
- Again: `make bench`; one part: `make bench ONLY=throughput` (or {parts}); some peers: \
`make bench ONLY=throughput PEERS=celery`; smaller: `make bench QUICK=1`."""

LIMITS = """\
- Tasks that do nothing show the cost of the scheduler, not that of your work.
- Everything runs on one machine: client, servers, brokers and databases share its cores. A \
network between them would make each round trip slower, which costs those most that make many.
- Peers have different guarantees: see the columns on the right and "outcome recorded". Celery, \
Huey and DBOS have many features that this project does not have.
- The Rails engine that this project succeeds is not measured: it needs a Ruby that is not \
installed.
- The starter is written in the shape of the Pylons cookiecutter, and is not its text. Its \
versions are the newest of the package index; the project's are those of its `constraints.txt`.
- The history is loaded before its indexes are created, so that they are more compact than after \
years of operation.
- A cell `-` was not measured: the peer has no such thing, or the row is a variant of one above."""


def main() -> int:
    """Run the parts, and print the report."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, fewer rounds")
    parser.add_argument("--only", choices=PARTS, help="only this part")
    parser.add_argument("--peers", default="", help="only peers whose name contains this")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that databases are dropped
    broken: list[str] = []
    minutes: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="heartbeat-bench-") as folder:
        bench = Bench(QUICK if options.quick else FULL, Path(folder), options.peers)
        python = bench.project.folder / ".venv" / "bin" / "python"
        where = machine.describe(Path(folder), python)
        for name, part in PARTS.items():
            if options.only in {None, name}:
                say(f"== {name}")
                began = time.monotonic()
                try:
                    part(bench)
                except Exception as error:  # noqa: BLE001 - the other parts have results
                    broken.append(name)
                    traceback.print_exc()
                    bench.report.note(f"The part {name} failed: {type(error).__name__}.")
                minutes[name] = (time.monotonic() - began) / 60
    each = ", ".join(f"{name} {part_minutes:.1f}" for name, part_minutes in minutes.items())
    where["minutes"] = f"{sum(minutes.values()):.0f} ({each})"
    page = write(bench.report, where, method(bench.sizes), LIMITS)
    print(page)
    if options.quick or options.only or options.peers or broken:
        say("Only a full run writes RESULTS.md")
    else:
        RESULTS.write_text(page)
        say("The results are in benchmarks/RESULTS.md")
    return 1 if broken else 0


def method(sizes: Sizes) -> str:
    """Return the description of the method, with the numbers of rounds."""
    numbers = {**asdict(sizes), "ready_rounds": sizes.ready_rounds, "singles": sizes.singles}
    return METHOD.format(parts=", ".join(PARTS), **numbers)


if __name__ == "__main__":
    sys.exit(main())

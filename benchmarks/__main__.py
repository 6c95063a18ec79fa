"""`make bench`: measure everything, print it, and write RESULTS.md; `--help` lists the options."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from . import machine
from .bench import FULL, QUICK, Bench, say
from .columns import single, throughput, tick
from .correctness import correctness
from .growth import growth, side_by_side
from .report import write
from .setup import set_up

PARTS = {
    "throughput": throughput,
    "one": single,
    "tick": tick,
    "correctness": correctness,
    "growth": growth,
    "side-by-side": side_by_side,
    "set-up": set_up,
}
RESULTS = Path(__file__).parent / "RESULTS.md"

METHOD = """\
- The rendered project is served by `pserve production.ini` with 8 workers, and gets its beats \
over HTTP from one client that keeps its connection. Its flows are rows that share a handler which \
does nothing (or waits). After each beat the database is asked whether all runs are `success`.
- Runs a second: all tasks are due before the clock starts; it stops when the outcome of the last \
is recorded, where the column says.
- One due task: until its outcome is recorded. For the project, until the reply.
- A tick: what the scheduler does when nothing is due. For the project, the whole beat over HTTP.
- Ran twice: 200 tasks due, two schedulers as processes of their own; how many tasks were called \
more than once.
- kill -9: the process is killed in a task and started again.
- Peers are as their own guides set them up for production, with 8 threads, processes or tasks at \
once where they can be told: `benchmarks/peers/` has a short module for each.
- Each peer has a fresh process and a fresh database in each round, and rounds go from one to the \
next: A B C A B C. A ratio is taken within a round.
- Again: `make bench`; one part: `make bench ONLY=throughput` (or {parts}); some peers: \
`make bench ONLY=throughput PEERS=celery`; smaller: `make bench QUICK=1`."""

LIMITS = """\
- Tasks that do nothing show what the machinery costs, not what your work costs.
- Everything runs on one machine: client, servers, brokers and databases share its cores. A \
network between them would make each round trip dearer, for those the most that make many.
- Peers promise different things, which the columns on the right and "outcome recorded" hint at. \
Celery, Huey and DBOS do much that this project does not.
- The Rails engine that this project succeeds is not here: it needs a Ruby that is not installed.
- The starter is written after the shape of the Pylons cookiecutter, and is not its very text.
- A cell `-` was not measured: the peer has no such thing, or the row is a variant of one above."""


def main() -> int:
    """Run the parts, and report."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, fewer rounds")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    parser.add_argument("--peers", default="", help="only peers whose name has this in it")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was made is removed
    began = time.monotonic()
    broken: list[str] = []
    with tempfile.TemporaryDirectory(prefix="heartbeat-bench-") as folder:
        bench = Bench(QUICK if options.quick else FULL, Path(folder), options.peers)
        python = bench.project.folder / ".venv" / "bin" / "python"
        where = machine.describe(Path(folder), python)
        for name, part in PARTS.items():
            if options.only in {None, name}:
                say(f"== {name}")
                try:
                    part(bench)
                except Exception as error:  # noqa: BLE001 - the other parts are worth telling
                    broken.append(name)
                    traceback.print_exc()
                    bench.report.note(f"The part {name} broke off: {type(error).__name__}.")
    where["it took"] = f"{(time.monotonic() - began) / 60:.0f} minutes"
    page = write(bench.report, where, METHOD.format(parts=", ".join(PARTS)), LIMITS)
    print(page)
    if options.quick or options.only or options.peers or broken:
        say("RESULTS.md is written by a whole run only")
    else:
        RESULTS.write_text(page)
        say("written to benchmarks/RESULTS.md")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

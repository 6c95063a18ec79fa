"""Chaos from the command line, as long and as often as wanted: `make chaos` and `make storm`."""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from .beating import Chaos
from .broker import KINDS as BROKERS
from .broker import Broker
from .databases import KINDS, NotInstalledError, make_database
from .faults import FAULTS, plant
from .handing import HandingOver
from .processes import Site, complaints, install
from .storm import storm

SEEDS = 1_000_000


def main() -> int:
    """Do what the command line says; give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--database", choices=KINDS, default="sqlite")
    parser.add_argument("--broker", choices=BROKERS, help="Celery's: flows run on its workers")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long chaos reigns")
    parser.add_argument("--seed", type=int, help="plans the same deeds again")
    parser.add_argument("--storm", action="store_true", help="50 beats at once instead of chaos")
    parser.add_argument("--rounds", type=int, default=3, help="how many storms, one by one")
    parser.add_argument("--fault", choices=FAULTS, help="plant this into the engine first")
    options = parser.parse_args()
    seed = secrets.randbelow(SEEDS) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="heartbeat-chaos-"))
    with ExitStack() as stack:
        try:
            database = make_database(options.database)
            stack.callback(database.close)
            broker = Broker(options.broker) if options.broker else None
        except NotInstalledError as error:
            print(error, file=sys.stderr)
            return 1
        project = install(folder, "celery" if broker else "local")
        if broker:
            project = replace(project, settings=broker.settings)
        source = plant(options.fault, project.source, folder) if options.fault else None
        flows = "many" if options.storm else "mixture"
        site = Site(project, folder / "site", database.url("chaos"), flows, source)
        if broker:
            stack.callback(broker.close, site)
        stack.callback(site.close)
        if options.storm:
            outcome = storm(site, database, options.rounds)
        else:
            print(f"seed {seed}", flush=True)
            seconds = options.minutes * 60
            if broker:
                outcome = HandingOver(site, database, broker, seed, seconds).run()
            else:
                outcome = Chaos(site, database, seed, seconds).run()
    print(outcome)
    for line, number in complaints(site.processes).most_common():
        print(f"logged {number} times: {line}")
    if outcome.violations:
        print(f"the logs are left in {site.folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())

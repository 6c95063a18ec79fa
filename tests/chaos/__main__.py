"""Chaos from the command line, as long and as often as wanted: `make chaos` and `make storm`."""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from .beating import Chaos
from .databases import KINDS, NotInstalledError, make_database
from .faults import FAULTS, plant
from .processes import Site, complaints, install
from .storm import storm

SEEDS = 1_000_000


def main() -> int:
    """Do what the command line says; give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--database", choices=KINDS, default="sqlite")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long chaos reigns")
    parser.add_argument("--seed", type=int, help="plans the same deeds again")
    parser.add_argument("--storm", action="store_true", help="50 beats at once instead of chaos")
    parser.add_argument("--rounds", type=int, default=3, help="how many storms, one by one")
    parser.add_argument("--fault", choices=FAULTS, help="plant this into the engine first")
    options = parser.parse_args()
    seed = secrets.randbelow(SEEDS) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="heartbeat-chaos-"))
    try:
        database = make_database(options.database)
    except NotInstalledError as error:
        print(error, file=sys.stderr)
        return 1
    try:
        project = install(folder)
        source = plant(options.fault, project.source, folder) if options.fault else None
        flows = "many" if options.storm else "mixture"
        site = Site(project, folder / "site", database.url("chaos"), flows, source=source)
        try:
            if options.storm:
                outcome = storm(site, database, options.rounds)
            else:
                print(f"seed {seed}", flush=True)
                outcome = Chaos(site, database, seed, options.minutes * 60).run()
        finally:
            site.close()
    finally:
        database.close()
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

"""Call a function of a peer's module: `python -m benchmarks.peers raw throughput 2000`.

The database, the Redis and the variant are told by BENCH_DATABASE, BENCH_REDIS and BENCH_VARIANT.
What the function returns is printed as JSON; all else that is said goes to standard error.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys


def main() -> None:
    """Do what the arguments say; several functions can be given, each with its number."""
    module = importlib.import_module(f"benchmarks.peers.{sys.argv[1]}")
    answers = []
    with contextlib.redirect_stdout(sys.stderr):
        for call in sys.argv[2:]:
            name, *arguments = call.split("=")
            given = [int(part) if part.isdigit() else part for part in arguments]
            answers.append(getattr(module, name)(*given))
    print(json.dumps(answers[-1]), flush=True)
    # Workers of some peers go on for a while, and nobody waits for them.
    os._exit(0)


if __name__ == "__main__":
    main()

"""Call a function of a peer's module: `python -m benchmarks.peers raw throughput=2000`.

BENCH_DATABASE, BENCH_REDIS and BENCH_VARIANT name the database, the Redis and the variant. The
result of the function is printed as JSON; all other output goes to standard error.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys


def main() -> None:
    """Call the functions that the arguments name; print the result of the last one."""
    module = importlib.import_module(f"benchmarks.peers.{sys.argv[1]}")
    answers = []
    with contextlib.redirect_stdout(sys.stderr):
        for call in sys.argv[2:]:
            name, *arguments = call.split("=")
            given = [int(part) if part.isdigit() else part for part in arguments]
            answers.append(getattr(module, name)(*given))
    print(json.dumps(answers[-1]), flush=True)
    # Without waiting for workers of peers that go on for a while.
    os._exit(0)


if __name__ == "__main__":
    main()

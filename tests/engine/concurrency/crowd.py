"""Ten processes that do the same thing at the same moment, as a program.

python -m tests.heartbeat.concurrency.crowd beat|migrate|prune|register FILE.ini

It exits with how many of the ten failed. They are forked when all is loaded, as by a server, so
that they meet.
"""

import os
import sys
import traceback
from collections.abc import Callable

from pyramid.paster import get_app

from data_flows.heartbeat.cli import main as heartbeat_command
from data_flows.heartbeat.runs.beat import run_beat
from data_flows.heartbeat.runs.register import register

TEN = 10


def prepare(what: str, ini_file: str) -> Callable[[], object]:
    """Import and prepare everything, without a connection; return the remaining step."""
    if what in {"migrate", "prune"}:
        return lambda: heartbeat_command([what, "-c", ini_file], standalone_mode=False)
    heartbeat = get_app(ini_file).registry["heartbeat"]
    if what == "beat":
        return lambda: run_beat(heartbeat, "a crowd", None)
    return lambda: register(heartbeat)


def main(what: str, ini_file: str) -> int:
    """Let ten children do it at once; return how many failed."""
    act = prepare(what, ini_file)
    ready, tell_ready = os.pipe()
    start, tell_start = os.pipe()
    children = []
    for _ in range(TEN):
        child = os.fork()
        if child == 0:
            os.close(tell_start)
            try:
                os.write(tell_ready, b".")
                os.read(start, 1)  # ends when the parent closes its side
                act()
            except BaseException:  # noqa: BLE001 - the exit code reports any error
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    os.close(tell_ready)
    arrived = 0
    while arrived < TEN and (dots := os.read(ready, TEN)):
        arrived += len(dots)
    os.close(tell_start)
    return sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))

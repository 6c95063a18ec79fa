"""A beating process and simulated workers, run by the Python of the rendered project.

`simulated.py PROCESSES THREADS` beats every two seconds until its standard input ends, and prints
the seconds that each reply took. A queue of this machine stands in for the broker; claims, messages
of one id, and the end of each run are those of the engine.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import threading
import time
from functools import partial
from typing import Any

from data_flows.heartbeat.cli.application import application
from data_flows.heartbeat.optional.celery.hand_over import hand_over
from data_flows.heartbeat.optional.celery.worker import execute_run
from data_flows.heartbeat.runs.beat import run_beat

CONFIG = "production.ini"
EVERY = 2.0
# A beat is answered after its first claim, as by default, and hands over the others after that.
WAIT = 0.0
# The workers of a process share so many connections, as behind a proxy that pools them:
# PostgreSQL's default is 100 for all.
CONNECTIONS = 10


def work(messages: Any, threads: int) -> None:
    """Take runs on so many threads, until the parent ends."""
    connections = threading.Semaphore(CONNECTIONS)
    with application(CONFIG) as heartbeat:

        def take_all() -> None:
            while True:
                run_id = messages.get()
                with connections:
                    execute_run(heartbeat, run_id)

        takers = [threading.Thread(target=take_all, daemon=True) for _ in range(threads)]
        for thread in takers:
            thread.start()
        for thread in takers:
            thread.join()


def beat(messages: Any) -> list[float]:
    """Beat until standard input ends; return the seconds that each reply took."""
    stopped, durations = threading.Event(), list[float]()

    def wait_for_end() -> None:
        sys.stdin.read()
        stopped.set()

    def send(runs: Any) -> None:
        for run in runs:
            messages.put(run.id)

    threading.Thread(target=wait_for_end, daemon=True).start()
    with application(CONFIG) as heartbeat:
        heartbeat.hand_over = partial(hand_over, send)
        while not stopped.is_set():
            began = time.monotonic()
            run_beat(heartbeat, "simulation", WAIT)
            durations.append(time.monotonic() - began)
            stopped.wait(max(EVERY - durations[-1], 0))
    return durations


def main() -> None:
    """Start the workers, beat, and end them."""
    processes, threads = map(int, sys.argv[1:])
    context = multiprocessing.get_context("fork")
    messages = context.Queue()
    workers = [
        context.Process(target=work, args=(messages, threads), daemon=True)
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    durations = beat(messages)
    for worker in workers:
        worker.kill()
    print(json.dumps(durations), flush=True)


if __name__ == "__main__":
    main()

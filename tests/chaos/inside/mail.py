"""The messages of a queue, repeated, lost or held back, by the rendered project's Python.

python mail.py repeat|lose|hold|remove DATABASE BROKER QUEUE SECONDS
"""

import random
import sys
import time
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from data_flows.heartbeat.models import DataFlowRun
from sqlalchemy import create_engine, select

celery: Any = import_module("celery")  # they have no types
kombu: Any = import_module("kombu")
TASK = "data_flows.heartbeat.run"
# Runs that have ended, that are in progress, and that are pending.
REPEATED = 60


def main(what: str, database: str, broker: str, name: str, seconds: str) -> None:
    """Do it, and print how many messages there were."""
    with kombu.Connection(broker) as connection:
        channel = connection.channel()
        if what == "repeat":
            runs = list(latest_runs(database)) * 2
            random.shuffle(runs)
            send(broker, name, runs)
        elif what == "hold":
            runs = list(take(channel, name))
            time.sleep(float(seconds))
            send(broker, name, runs)
        elif what == "lose":
            runs = [0] * (channel.queue_purge(name) or 0)
        else:
            runs = []
            remove(connection, channel, name)
    print(len(runs))


def latest_runs(database: str) -> Iterable[int]:
    """Read the ids of the latest runs."""
    engine = create_engine(database)
    latest = select(DataFlowRun.id).order_by(DataFlowRun.id.desc()).limit(REPEATED)
    with engine.connect() as connection:
        return list(connection.scalars(latest))


def send(broker: str, name: str, runs: Iterable[int]) -> None:
    """Send the ids of runs, as a beat does."""
    app = celery.Celery(broker=broker, set_as_current=False)
    queue = kombu.Queue(name, queue_arguments={"x-queue-type": "quorum"})
    with app.connection_for_write() as connection:
        producer = app.amqp.Producer(connection)
        for run in runs:
            app.send_task(TASK, (run,), queue=queue, producer=producer)


def take(channel: Any, name: str) -> Iterable[int]:  # noqa: ANN401 - it has no types
    """Take all messages out of the queue."""
    queue = kombu.Queue(name, channel=channel)
    while message := queue.get(no_ack=True):
        yield message.decode()[0][0]


def remove(connection: Any, channel: Any, name: str) -> None:  # noqa: ANN401 - they have no types
    """Remove the queue, and what kombu leaves of it on Redis."""
    channel.queue_delete(name)
    if connection.transport.driver_type == "redis":
        server = channel.client
        server.delete(*server.keys(f"_kombu.binding*.{name}") or "-")
        left = [tag for tag, text in server.hgetall("unacked").items() if name.encode() in text]
        if left:
            server.hdel("unacked", *left)
            server.zrem("unacked_index", *left)


if __name__ == "__main__":
    main(*sys.argv[1:])

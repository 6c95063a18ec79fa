"""DBOS 3: workflows of one step, started directly or through a queue of at most 8 at once."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Any

import psycopg
from dbos import DBOS, DBOSConfig, SetEnqueueOptions

from . import DATABASE, VARIANT, WORKERS, libpq, tasks

QUEUE = "bench"


@DBOS.step()
def step(task: str, name: str) -> None:
    """Do the task as a step, so that its outcome is recorded."""
    getattr(tasks, task)(*([] if task == "noop" else [name]))


@DBOS.workflow()
def workflow(task: str, name: str) -> None:
    """Do one step."""
    step(task, name)


def launch(executor: str = "bench", *, listen: bool = True) -> None:
    """Launch it, which recovers the unfinished workflows of its executor."""
    url = DATABASE.replace("postgresql+psycopg", "postgresql")
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": url,
        "executor_id": executor,
        "application_version": "1",
        "log_level": "ERROR",
    }
    DBOS(config=config)
    if not listen:
        DBOS.listen_queues([])
    DBOS.launch()
    DBOS.register_queue(QUEUE, worker_concurrency=WORKERS)


def prepare() -> None:
    """Do nothing: the launch creates the tables."""


def start(task: str = "noop", name: str = "") -> Any:
    """Start a workflow in the way of the variant."""
    if VARIANT == "queue":
        return DBOS.enqueue_workflow(QUEUE, workflow, task, name)
    return DBOS.start_workflow(workflow, task, name)


def throughput(count: int) -> float:
    """Start all, and wait until all have ended."""
    launch()
    start().get_result()
    began = time.perf_counter()
    for handle in [start() for _ in range(count)]:
        handle.get_result()
    return time.perf_counter() - began


def one(times: int) -> list[float]:
    """Start a single workflow, and wait until it has ended."""
    launch()
    start().get_result()
    look = psycopg.connect(libpq(), autocommit=True)
    ended = "SELECT status FROM dbos.workflow_status WHERE workflow_uuid = %s"
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        identifier = (start().get_workflow_id(),)

        def succeeded(which: tuple[str] = identifier) -> bool:
            row = look.execute(ended, which).fetchone()
            return row is not None and row[0] == "SUCCESS"

        tasks.wait_for(succeeded, wanted=True, pause=0.0002)
        taken.append(tasks.milliseconds(began))
    return taken


def load(rows: int) -> None:
    """Enqueue a workflow for tomorrow, and multiply its row."""
    launch()
    with SetEnqueueOptions(delay_seconds=86_400):
        DBOS.enqueue_workflow(QUEUE, workflow, "noop", "")
    with psycopg.connect(libpq(), autocommit=True) as connection:
        row = connection.execute(
            "SELECT string_agg(quote_ident(column_name::text), ', ') FROM "
            "information_schema.columns WHERE table_schema = 'dbos' AND "
            "table_name = 'workflow_status' AND column_name <> 'workflow_uuid' "
            "AND is_generated = 'NEVER' AND is_identity = 'NO'"
        ).fetchone()
        columns = row[0] if row else ""
        connection.execute(
            f"INSERT INTO dbos.workflow_status (workflow_uuid, {columns}) "
            f"SELECT workflow_uuid || '-' || n, {columns} FROM dbos.workflow_status, "
            f"generate_series(1, {rows - 1}) AS n WHERE status = 'DELAYED'".encode()
        )
        connection.execute("VACUUM ANALYZE dbos.workflow_status")


def tick(times: int) -> list[float]:
    """Execute the queries that its queue thread executes every second."""
    from dbos._dbos import _get_dbos_instance  # noqa: PLC0415 - not public

    database = _get_dbos_instance()._sys_db  # noqa: SLF001 - not public
    queue = DBOS.retrieve_queue(QUEUE)
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        database.transition_delayed_workflows()
        database.start_queued_workflows(queue, "bench", "1", None)
        taken.append(tasks.milliseconds(began))
    return taken


def schedule(task: str, count: int) -> None:
    """Enqueue workflows; without a queue, `work` starts the one workflow."""
    if VARIANT == "queue":
        launch("scheduler", listen=False)
        for number in range(count):
            start(task, f"{task}-{number}")


def work() -> None:
    """Serve the queue; without a queue, start the one workflow unless there is one."""
    launch(f"executor-{datetime.now(UTC).timestamp()}" if VARIANT == "queue" else "bench")
    if VARIANT == "direct" and not DBOS.list_workflows():
        start("linger", "linger-0")
    threading.Event().wait()


def fate() -> str:
    """Return the workflow's status."""
    with psycopg.connect(libpq()) as connection:
        row = connection.execute("SELECT status FROM dbos.workflow_status").fetchone()
    return f"`{row[0]}`" if row else "no record"

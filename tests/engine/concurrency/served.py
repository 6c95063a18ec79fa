"""The application that the tests here serve in processes of their own: the engine, and flows.

Tests and flows communicate through rows, and through files in the folder of the setting
`test.folder`.
"""

import logging
import pkgutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyramid.config import Configurator
from pyramid.router import Router
from sqlalchemy import Column, Integer, MetaData, String, Table, event, func, insert, select
from sqlalchemy.engine import ExceptionContext

from data_flows.heartbeat import Heartbeat, Run
from data_flows.heartbeat.db.types import UTCDateTime

SECONDS = 60  # no flow waits longer for its test
MANY = 20
TOGETHER = 8

log = logging.getLogger(__name__)
metadata = MetaData()
# Nothing is unique here, so that what runs twice is seen twice.
WRITTEN = Table(
    "written_by_tests",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("flow_name", String(50), nullable=False),
    Column("slot", UTCDateTime),
)


def write(run: Run) -> None:
    """Insert one row."""
    values = {"flow_name": run.flow_name, "slot": run.scheduled_for}
    run.session.execute(insert(WRITTEN).values(values))


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


def hold(folder: Path) -> Callable[[Run], None]:
    """Make a flow that writes, reports that it has begun, and waits until it is released."""

    def work(run: Run) -> None:
        write(run)
        (folder / "inside").touch()
        wait_for((folder / "released").exists)

    return work


def write_last(folder: Path) -> Callable[[Run], None]:
    """Make a flow that reports that it has begun, waits until it is released, and then writes."""

    def work(run: Run) -> None:
        (folder / "inside").touch()
        wait_for((folder / "released").exists)
        write(run)

    return work


def cling(folder: Path) -> Callable[[Run], None]:
    """Make a flow that never ends, on a thread that an interpreter would wait for at its exit."""

    def work(_run: Run) -> None:
        never = threading.Event()
        threading.Thread(target=never.wait, daemon=False).start()
        (folder / "inside").touch()
        never.wait()

    return work


def write_behind(folder: Path) -> Callable[[Run], None]:
    """Make a flow that writes as soon as the one of `hold` has written."""

    def work(run: Run) -> None:
        wait_for((folder / "inside").exists)
        write(run)

    return work


def fail_last(folder: Path) -> Callable[[Run], None]:
    """Make a flow that writes, reports that it has begun, waits until it is released, and fails.

    From then on it needs no database, so that its own error is the first one.
    """

    def work(run: Run) -> None:
        hold(folder)(run)
        raise LookupError(run.flow_name)

    return work


def in_step(folder: Path) -> Callable[[Run], int]:
    """Make a flow that reads and writes, and that waits after reading until all others have."""

    def work(run: Run) -> int:
        count = run.session.scalar(select(func.count()).select_from(WRITTEN)) or 0
        (folder / f"{run.flow_name} has read").touch()
        wait_for(lambda: len(list(folder.glob("* has read"))) == TOGETHER)
        write(run)
        time.sleep(0.05)  # keeps the write lock for a moment, so that the others meet it
        return count

    return work


def main(_global_config: dict[str, str], **settings: Any) -> Router:
    """Return the application with the flows that the setting `test.flows` names."""
    folder = Path(settings["test.folder"])
    daily: dict[str, Any] = {"every": "1d"}
    flows: dict[str, list[tuple[str, Callable[[Run], Any], dict[str, Any]]]] = {
        "many": [(f"many {number}", write, daily) for number in range(MANY)],
        "hold": [("hold", hold(folder), {"every": "1s"})],
        "write last": [("write last", write_last(folder), daily)],
        "queue": [
            ("hold", hold(folder), daily),
            *((f"behind {number}", write_behind(folder), daily) for number in range(TOGETHER - 1)),
        ],
        "retry": [("retry", hold(folder), {**daily, "on_lost": "retry"})],
        "retry last": [("retry", write_last(folder), {**daily, "on_lost": "retry"})],
        "pausing": [("pausing", write_last(folder), {**daily, "pause_after": 1})],
        # A process that knows none of the handlers above.
        "other": [("other", write, {**daily, "start": "next"})],
        "two": [(f"write last {number}", write_last(folder), daily) for number in range(2)],
        "fail last": [("fail last", fail_last(folder), {**daily, "retries": 2})],
        "cling": [("cling", cling(folder), daily)],
        "in step": [(f"step {number}", in_step(folder), daily) for number in range(TOGETHER)],
    }
    queue = {"queue": settings["test.queue"]} if "test.queue" in settings else {}
    with Configurator(settings=settings) as config:
        config.include("data_flows.heartbeat")
        heartbeat: Heartbeat = config.registry["heartbeat"]
        event.listen(heartbeat.engine, "handle_error", tell_of)
        heartbeat.at_exit += [break_off, (folder / "at exit").touch]
        named = settings["test.flows"]
        # A name with a colon is that of a function elsewhere, which returns such flows.
        for name, function, options in flows.get(named) or pkgutil.resolve_name(named)(folder):
            config.add_flow(function, name=name, **options, **queue)
        app: Router = config.make_wsgi_app()
        return app


def break_off() -> None:
    """Be something to be called at exit that fails."""
    raise OSError("there is no such process")


def tell_of(context: ExceptionContext) -> None:
    """Write every error of the database to the log, those too that the engine overcomes."""
    log.error("the database said: %r", context.original_exception)

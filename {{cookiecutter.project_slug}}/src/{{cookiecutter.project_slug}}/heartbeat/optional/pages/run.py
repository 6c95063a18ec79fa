"""The page of a run."""

import json
from typing import Any

from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import select

from ...core import Heartbeat
from ...db.stored import readable
from ...json_values import json_problem
from ...members import find_run
from ...models import DataFlow
from .backtraces import bounded, fold
from .forms import fields_of
from .rendering import page


def run(request: Request) -> Response:
    """Show a run: what it did, and how to run it again."""
    heartbeat: Heartbeat = request.heartbeat
    found = find_run(heartbeat, int(request.matchdict["id"]))
    columns = DataFlow.handler, DataFlow.timezone, DataFlow.configuration
    with heartbeat.session() as session:
        row = session.execute(select(*columns).where(DataFlow.name == found.flow)).first()
    handler, zone, stored = map(readable, row or (None, None, None))
    secrets = heartbeat.secrets()
    texts = {
        name: bounded(getattr(found, name) or "", secrets)
        for name in ("error_type", "error_message", "error_backtrace", "log")
    }
    return page(
        request,
        "run.jinja2",
        active="runs",
        run=found,
        zone=zone or "UTC",
        texts=texts,
        frames=fold(texts["error_backtrace"], secrets),
        result="" if found.result is None else bounded(as_text(found.result), secrets),
        fields=fields_of(heartbeat, handler, stored or {}),
    )


def as_text(result: Any) -> str:
    """Return the result of a run as text."""
    if problem := json_problem(result):
        return f"(not shown: {problem})"
    return json.dumps(result, indent=2, ensure_ascii=False)

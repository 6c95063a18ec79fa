"""The page of a rehearsal, which is the reply to its button: nothing of it is stored."""

import sqlalchemy as sa
from pyramid.request import Request
from pyramid.response import Response

from ...core import Heartbeat
from ...db.stored import readable
from ...models import DataFlow
from ..rehearse.prepare import prepare
from ..rehearse.rehearsal import rehearse
from .backtraces import bounded, fold
from .rendering import page
from .run import as_text

# The shortest time that a rehearsal gets, whatever `heartbeat.wait` is, in seconds.
SHORTEST = 1.0


def rehearsal(request: Request, name: str) -> Response:
    """Rehearse a flow within the time of a beat, and show how it ended."""
    heartbeat: Heartbeat = request.heartbeat
    run = prepare(heartbeat, name)
    with heartbeat.session() as session:
        zone = readable(session.scalar(sa.select(DataFlow.timezone).where(DataFlow.name == name)))
    ended = rehearse(heartbeat, run, max(heartbeat.settings.wait, SHORTEST))
    secrets = heartbeat.secrets()
    texts = {
        name: bounded(getattr(ended, name) or "", secrets)
        for name in ("error_type", "error_message", "error_backtrace", "log")
    }
    return page(
        request,
        "rehearsal.jinja2",
        active="flows",
        rehearsal=ended,
        zone=zone or "UTC",
        texts=texts,
        frames=fold(texts["error_backtrace"], secrets),
        result="" if ended.result is None else bounded(as_text(ended.result), secrets),
    )

"""Optional: routes for probes and uptime monitors. They are open, and disclose nothing else."""

import logging
from datetime import timedelta
from http import HTTPStatus
from typing import Literal

from pydantic import BaseModel
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from ..core import Heartbeat
from ..db.stored import readable
from ..errors import DatabaseNotReadyError
from ..migrations import require_current
from ..models import DataFlowBeat
from ..redaction import redact, short_error
from ..security.policy import OPEN
from ..settings import BEATS_MISSED
from ..views.guard import View, add_guarded_view
from ..views.operation import Operation
from ..views.problems import json_reply, unavailable

log = logging.getLogger(__name__)

# By id, since the clock may have been set back between two beats.
_LAST_BEAT = select(DataFlowBeat.received_at).order_by(DataFlowBeat.id.desc()).limit(1)


class Health(BaseModel):
    """The reply where all is well."""

    status: Literal["ok"] = "ok"


def includeme(config: Configurator) -> None:
    """Add the routes and their views."""
    heartbeat: Heartbeat = config.registry["heartbeat"]
    config.registry["heartbeat.started_at"] = heartbeat.clock.now()
    views: dict[str, tuple[View, str]] = {
        "/health/live": (live, "Answer that the process serves, without the database"),
        "/health": (health, "Report whether the database answers at the expected revision"),
        "/health/beats": (health_beats, "Report whether beats come"),
    }
    for pattern, (view, summary) in views.items():
        operation = Operation(summary=summary, replies={HTTPStatus.OK: Health})
        described = {"GET": operation}
        add_guarded_view(config, view, pattern, OPEN, ("GET", "HEAD"), operations=described)


def live(_request: Request) -> Response:
    """Answer that the process serves: for liveness probes, which must not depend on a database."""
    return json_reply(HTTPStatus.OK, Health())


def health(request: Request) -> Response:
    """Answer 200 if the database can be used, else 503: for readiness probes."""
    heartbeat: Heartbeat = request.heartbeat
    try:
        require_current(heartbeat.engine)
    except (DatabaseNotReadyError, SQLAlchemyError) as error:
        return _not_ready(heartbeat, error)
    return json_reply(HTTPStatus.OK, Health())


def health_beats(request: Request) -> Response:
    """Answer 503 if no beat has come for twice `expected_every`: for uptime monitors.

    Where no beat has ever come, the time is counted from the start of this process.
    """
    heartbeat: Heartbeat = request.heartbeat
    try:
        with heartbeat.session() as session:
            last = readable(session.scalars(_LAST_BEAT).first())
    except (DatabaseNotReadyError, SQLAlchemyError) as error:
        return _not_ready(heartbeat, error)
    silence = heartbeat.clock.now() - (last or request.registry["heartbeat.started_at"])
    if silence > timedelta(seconds=BEATS_MISSED * heartbeat.settings.expected_every):
        return unavailable("no beat has come for too long")
    return json_reply(HTTPStatus.OK, Health())


def _not_ready(heartbeat: Heartbeat, error: Exception) -> Response:
    """Return 503 without the cause, which is for the log alone."""
    cause = short_error(redact(str(error), heartbeat.secrets()))
    heartbeat.repeats.log(log, logging.ERROR, "the database is not ready: %s", cause)
    return unavailable("the database is not ready: the application's log has the details")

"""The heartbeat: an outside scheduler POSTs, and the data flows that are due run.

`config.include(".heartbeat")` is all that an application needs. It adds `config.add_flow`,
`request.heartbeat` and the routes below `heartbeat.path`; it sets no session factory, no security
policy, no CSRF default and no `tm.*` setting of the application.
"""

import logging
from importlib.resources import files

from pydantic import SecretStr
from pyramid.config import Configurator
from sqlalchemy import URL

from .clock import SystemClock
from .core import Heartbeat
from .db import make_engine
from .executors.local import LocalExecutor
from .registry import add_flow, flow, refuse_one_name_twice
from .runs.run import Run, Window
from .runs.session import watch_errors
from .security.token import Tokens
from .settings import Settings, read_settings

__all__ = ["Heartbeat", "Run", "Window", "flow", "includeme"]

log = logging.getLogger(__name__)
VERSION = files(__package__).joinpath("VERSION").read_text().strip()


def includeme(config: Configurator) -> None:
    """Wire the heartbeat into an application. Raises SettingsError with every fault at once."""
    settings, url = read_settings(config.registry.settings)
    config.registry["heartbeat"] = make_heartbeat(settings, url)
    config.registry["heartbeat.places"] = {}
    config.add_request_method(
        lambda request: request.registry["heartbeat"], "heartbeat", reify=True
    )
    config.add_directive("add_flow", add_flow)
    refuse_one_name_twice(config)
    if not settings.require_token:
        log.warning("anybody may beat: heartbeat.require_token is false")
    config.include(".security.policy")
    config.include(".views.beat")
    # Optional: delete a line and its module, and the rest works without it.
    config.include(".security.throttle")
    config.include(".pruning")
    config.include(".executors.child")
    config.include(".conditions")
    config.include(".views.flows")
    # The last one: its routes take whatever none of the above has taken.
    config.include(".routes")


def make_heartbeat(settings: Settings, url: URL) -> Heartbeat:
    """Return what an application holds of the heartbeat, without any flow yet.

    It connects when it is used. Raises SettingsError when the database's driver is missing.
    """
    engine = make_engine(url, pool_size=settings.workers + 2)
    watch_errors(engine)
    return Heartbeat(
        settings=settings,
        engine=engine,
        clock=SystemClock(),
        executor=LocalExecutor(settings.workers),
        tokens=Tokens(_secret(settings.token), settings.token_file),
        operator_tokens=Tokens(_secret(settings.operator_token), settings.operator_token_file),
    )


def _secret(value: SecretStr | None) -> str | None:
    return value.get_secret_value() if value else None

"""What tests of `heartbeat plan` share: an application with any flows, and a clock that stands."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from pyramid.config import Configurator
from pyramid.router import Router

from data_flows.heartbeat import Run
from data_flows.heartbeat.cli import main

from ..conftest import TOKEN, FakeClock
from ..factories import NOON

Options = dict[str, Any]
WritePlan = Callable[..., Path]
CallPlan = Callable[..., Result]


def work(_run: Run) -> None:
    """Work."""


def application(_global_config: dict[str, str], **settings: Any) -> Router:
    """Make an application with the flows and the time of its settings."""
    with Configurator(settings=settings) as config:
        config.include("data_flows.heartbeat")
        if now := settings.get("now"):
            config.registry["heartbeat"].clock = FakeClock(datetime.fromisoformat(now))
        for name, options in json.loads(settings["flows"]).items():
            config.add_flow(work, name=name, **options)
        app: Router = config.make_wsgi_app()
        return app


def write_ini(
    folder: Path, url: str, flows: dict[str, Options], *, now: datetime | None = NOON, **ini: str
) -> Path:
    """Write the .ini file of an application with these flows; return its path."""
    lines = [f"use = call:{__name__}:application", f"flows = {json.dumps(flows)}"]
    lines += [f"now = {now.isoformat()}"] if now else []
    settings = {"sqlalchemy.url": url, "heartbeat.token": TOKEN, **ini}
    lines += [f"{name} = {value}" for name, value in settings.items()]
    file = folder / "plan.ini"
    file.write_text("\n".join(["[app:main]", *(line.replace("%", "%%") for line in lines), ""]))
    return file


def call(file: Path, *arguments: str) -> Result:
    """Call `heartbeat` with arguments."""
    return CliRunner().invoke(main, [*arguments, "-c", str(file)])

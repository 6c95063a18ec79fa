"""The debug toolbar, which shows what it has recorded, never records a token."""

from collections.abc import Callable
from typing import Any

import pytest
from pyramid.config import Configurator

from ..conftest import TOKEN, MakeApp

BEARER = {"Authorization": f"Bearer {TOKEN}"}
LOCAL = {"REMOTE_ADDR": "127.0.0.1"}


def with_toolbar(config: Configurator) -> None:
    config.include("pyramid_debugtoolbar")


def closed_by_host(config: Configurator) -> None:
    config.include("pyramid_debugtoolbar")
    config.set_debugtoolbar_request_authorization(lambda _request: False)


def recorded(app: Any) -> list[str]:
    """Return the paths of the requests that the toolbar has kept."""
    history = app.app.registry.pdtb_history
    return [toolbar.request.path_info for _id, toolbar in history.last(100)]


@pytest.mark.parametrize("path", ["/heartbeat", "/pulse/of/it"])
def test_the_toolbar_records_no_token(make_app: MakeApp, path: str) -> None:
    app = make_app(configure=with_toolbar, **{"heartbeat.path": path})

    app.post(path, headers=BEARER, extra_environ=LOCAL, status=200)
    app.post(f"/{path}", headers=BEARER, extra_environ=LOCAL, status="*")
    app.get(f"//{path}/flows", headers=BEARER, extra_environ=LOCAL, status="*")
    app.get("/elsewhere", headers=BEARER, extra_environ=LOCAL, status=404)
    app.get("/elsewhere", headers={"X-Heartbeat-Token": TOKEN}, extra_environ=LOCAL, status=404)
    app.get("/else", extra_environ=LOCAL, status=404)

    assert recorded(app) == ["/else"]


@pytest.mark.parametrize(("configure", "paths"), [(with_toolbar, ["/else"]), (closed_by_host, [])])
def test_what_the_host_asks_of_the_toolbar_holds(
    make_app: MakeApp, configure: Callable[[Configurator], None], paths: list[str]
) -> None:
    app = make_app(configure=configure)

    app.get("/else", extra_environ=LOCAL, status=404)

    assert recorded(app) == paths

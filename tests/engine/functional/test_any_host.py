"""The engine within applications that differ from the rendered one: scans, orders, mounts."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pyramid import exceptions, testing
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPNotFound, HTTPSeeOther
from pyramid.request import Request
from pyramid.response import Response
from pyramid.router import Router
from webtest import TestApp

from data_flows import heartbeat
from data_flows.heartbeat.cli import main
from data_flows.heartbeat.startup import explain

from ..conftest import TOKEN

ENGINE = heartbeat.__name__
PACKAGE = Path(str(heartbeat.__file__)).parents[1]
BEARER = {"Authorization": f"Bearer {TOKEN}"}
FLOW = f"""
from {ENGINE} import flow


@flow(every="5m")
def greet(run):
    pass
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make the package of a host, in which one module declares a flow."""
    (tmp_path / "a_host" / "jobs").mkdir(parents=True)
    (tmp_path / "a_host" / "__init__.py").touch()
    (tmp_path / "a_host" / "jobs" / "__init__.py").write_text(FLOW)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("a_host")
    for name in [name for name in sys.modules if name.partition(".")[0] == "a_host"]:
        del sys.modules[name]


# ---------------------------------------------------------------------------------------------
# Scans


def test_a_scan_of_the_whole_engine_starts_nothing(config: Configurator) -> None:
    config.include(ENGINE)

    config.scan(ENGINE)
    del sys.modules[f"{ENGINE}.__main__"]  # which another test runs

    assert TestApp(config.make_wsgi_app()).post("/heartbeat", headers=BEARER).status_code == 200


def test_a_scan_of_the_whole_package_finds_the_flows(config: Configurator, package: Any) -> None:
    config.include(ENGINE)

    config.scan(package)
    config.commit()

    assert set(config.registry["heartbeat"].flows) == {"greet"}


def test_a_scan_before_the_include_is_one_clear_line(config: Configurator, package: Any) -> None:
    with pytest.raises(exceptions.ConfigurationError) as caught:
        config.scan(package)

    [line] = str(caught.value).splitlines()
    assert "__init__.py, line 5: @flow needs the engine" in line
    assert f'config.include("{ENGINE}") before config.scan()' in line


# ---------------------------------------------------------------------------------------------
# Configurators


def test_an_autocommitting_configurator_will_do(settings: dict[str, str]) -> None:
    config = Configurator(settings=settings, autocommit=True)

    config.include(ENGINE)

    app = TestApp(config.make_wsgi_app())
    app.post("/heartbeat", headers=BEARER, status=200)
    app.post("/heartbeat/unknown", headers=BEARER, status=404)
    config.registry["heartbeat"].dispose()


def test_the_hosts_own_tests_may_include_it(settings: dict[str, str]) -> None:
    with testing.testConfig(settings=settings) as config:
        config.include(ENGINE)
        config.add_flow(print, name="print", every="5m")

        assert testing.DummyRequest().route_path("heartbeat.beat") == "/heartbeat"
        assert set(config.registry["heartbeat"].flows) == {"print"}
        config.registry["heartbeat"].dispose()


@pytest.mark.parametrize("commit", [False, True])
def test_a_second_include_changes_nothing(config: Configurator, *, commit: bool) -> None:
    config.include(ENGINE)
    config.add_flow(print, name="print", every="5m")
    first = config.registry["heartbeat"]
    if commit:
        config.commit()

    config.include(ENGINE)
    app = TestApp(config.make_wsgi_app())

    assert config.registry["heartbeat"] is first
    assert set(first.flows) == {"print"}
    app.post("/heartbeat", headers=BEARER, status=200)


def test_a_second_include_elsewhere_is_one_clear_line(config: Configurator) -> None:
    config.include(ENGINE)
    config.commit()

    with pytest.raises(exceptions.ConfigurationError, match=r"below / already.* below /api: "):
        config.include(ENGINE, route_prefix="/api")


@pytest.mark.parametrize("engine_first", [False, True])
def test_a_request_heartbeat_of_the_hosts_own_is_one_clear_line(
    config: Configurator, *, engine_first: bool
) -> None:
    if engine_first:
        config.include(ENGINE)
    own_attribute(config)
    config.include(ENGINE)

    line = refusal(config)

    assert "test_any_host.py, line " in line
    assert "request.heartbeat is the engine's: rename yours" in line


def own_attribute(config: Configurator) -> None:
    config.add_request_method(lambda _request: "mine", "heartbeat", property=True)


def test_a_heartbeat_of_the_hosts_own_request_class_is_one_clear_line(
    config: Configurator,
) -> None:
    config.set_request_factory(type("Own", (Request,), {"heartbeat": "mine"}))
    config.include(ENGINE)

    assert "Own'>: request.heartbeat is the engine's: rename yours" in refusal(config)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_an_application_starts_on_a_database_in_memory_as_in_its_own_tests(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    config = Configurator(settings={"sqlalchemy.url": url, "heartbeat.token": TOKEN})
    config.include(ENGINE)

    refused = TestApp(config.make_wsgi_app()).post("/heartbeat", headers=BEARER, status=503)

    assert "no heartbeat tables yet: run `heartbeat migrate`" in refused.json["detail"]
    config.registry["heartbeat"].dispose()


# ---------------------------------------------------------------------------------------------
# Routes


def refusal(config: Configurator) -> str:
    """Complete an application that cannot be; return the one line of the error."""
    with pytest.raises(exceptions.ConfigurationError) as caught:
        config.commit()
    [line] = explain(caught.value)
    return line


HIDING = {
    "all": ("/{slug:.*}", None, "/heartbeat:"),
    "rest": ("/*rest", None, "/heartbeat:"),
    "post": ("/{slug:.*}", "POST", "/heartbeat:"),
    "get": ("/{slug:.*}", "GET", "/heartbeat/"),
    "two": ("/{section}/{page}", None, "/heartbeat/"),
}


@pytest.mark.parametrize("hiding", HIDING)
def test_a_route_of_the_host_that_hides_ours_is_named(config: Configurator, hiding: str) -> None:
    pattern, method, path = HIDING[hiding]
    config.add_route("catch_all", pattern, request_method=method)
    config.include(ENGINE)

    line = refusal(config)

    assert "test_any_host.py, line " in line
    assert f"the route 'catch_all' ({pattern}) hides the engine's {path}" in line
    assert f'call config.include("{ENGINE}") before you add it' in line


def test_routes_of_the_host_that_hide_nothing_are_left_alone(config: Configurator) -> None:
    config.add_route("beats", "/heartbeats")
    config.add_route("rare", "/*rest", request_param="never=asked")
    config.add_static_view("/heartbeat-files", str(PACKAGE))
    config.include(ENGINE)
    config.add_route("catch_all", "/{slug:.*}")
    config.add_view(lambda _request: Response("mine"), route_name="catch_all")

    app = TestApp(config.make_wsgi_app())

    app.post("/heartbeat", headers=BEARER, status=200)
    app.get("/heartbeat/no-such-thing", headers=BEARER, status=404)
    assert app.get("/anything").text == "mine"


def test_the_hosts_root_factory_is_not_called_for_our_routes(config: Configurator) -> None:
    def root_factory(_request: Request) -> None:
        raise HTTPSeeOther("/login")

    config.set_root_factory(root_factory)
    config.include(ENGINE)
    app = TestApp(config.make_wsgi_app())

    app.get("/anything", status=303)
    app.post("/heartbeat", headers=BEARER, status=200)
    app.post("/heartbeat", status=401)
    app.get("/heartbeat/unknown", headers=BEARER, status=404)


@pytest.mark.parametrize("path", ["/heartbeats", "/heartbeats/%ff", "/heartbeat-files/%ff"])
def test_paths_that_only_begin_like_ours_are_the_hosts(config: Configurator, path: str) -> None:
    config.include(ENGINE)
    add_own_answers(config)

    assert TestApp(config.make_wsgi_app()).get(path, status="*").text == "the host's"


def add_own_answers(config: Configurator) -> None:
    for error in (HTTPNotFound, exceptions.URLDecodeError):
        config.add_exception_view(lambda _request: Response("the host's"), context=error)


def mounted(wsgi_app: Any) -> Any:
    """Mount an application below /below, as servers do."""

    def call(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"].removeprefix("/below")
        return wsgi_app({**environ, "SCRIPT_NAME": "/below", "PATH_INFO": path}, start_response)

    return call


@pytest.mark.parametrize("mount", ["/api", "/api/v1/", "/{tenant}", "SCRIPT_NAME"])
def test_the_prefix_is_ours_wherever_it_is_mounted(config: Configurator, mount: str) -> None:
    is_below = mount == "SCRIPT_NAME"
    config.include(ENGINE, route_prefix=None if is_below else mount)
    add_own_answers(config)
    wsgi_app = config.make_wsgi_app()
    app = TestApp(mounted(wsgi_app) if is_below else wsgi_app)
    place = "/below" if is_below else mount.rstrip("/").replace("{tenant}", "acme")

    app.post(f"{place}/heartbeat", headers=BEARER, status=200)
    for path in ("/heartbeat/%ff", "/heartbeat/", "/heartbeat/unknown"):
        refused = app.get(f"{place}{path}", status=401)
        assert refused.content_type == "application/problem+json"
        assert refused.headers["Cache-Control"] == "no-store"
    app.get(f"{place}/heartbeat/%ff", headers=BEARER, status=400)
    assert app.get(f"{place}/heartbeats/%ff").text == "the host's"
    if not is_below:
        assert app.get("/heartbeat/%ff").text == "the host's"
        assert app.get("/heartbeat/unknown").text == "the host's"


# ---------------------------------------------------------------------------------------------
# Commands


def redirecting(_global_config: dict[str, str], **settings: str) -> Router:
    """Return an application that sends strangers away, wherever they go."""

    def root_factory(_request: Request) -> None:
        raise HTTPSeeOther("/login")

    with Configurator(settings=settings, root_factory=root_factory) as config:
        config.include(ENGINE)
        return config.make_wsgi_app()


def bare(_global_config: dict[str, str], **settings: str) -> Router:
    """Return an application without the engine."""
    return Configurator(settings=settings).make_wsgi_app()


def call(folder: Path, url: str, application: Callable[..., Router], *words: str) -> Result:
    """Call a command for an application."""
    ini = folder / "host.ini"
    use = f"use = call:{__name__}:{application.__name__}"
    ini.write_text(f"[app:main]\n{use}\nsqlalchemy.url = {url.replace('%', '%%')}\n")
    return CliRunner().invoke(main, [*words, "-c", str(ini)])


def test_commands_do_not_ask_the_hosts_root_factory(tmp_path: Path, database_url: str) -> None:
    result = call(tmp_path, database_url, redirecting, "beat", "--json")

    assert (result.exit_code, result.stderr) == (0, "")


def test_commands_name_an_application_without_the_engine(tmp_path: Path, database_url: str) -> None:
    result = call(tmp_path, database_url, bare, "beat")

    [line] = result.output.splitlines()
    assert result.exit_code == 1
    assert "host.ini does not include the engine: call config.include(" in line
    assert f'"{ENGINE}"' in line

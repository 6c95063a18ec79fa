"""The engine within an application that has everything of its own already."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyramid_tm
import pytest
import transaction
from click.testing import CliRunner
from pyramid.config import Configurator
from pyramid.interfaces import (
    IDefaultCSRFOptions,
    IDefaultPermission,
    IExecutionPolicy,
    INewResponse,
    IRootFactory,
    ISecurityPolicy,
    ISessionFactory,
    ITweens,
)
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from sqlalchemy import inspect, make_url, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from webtest import TestApp

from data_flows.heartbeat import Run
from data_flows.heartbeat.cli import main as heartbeat_command
from data_flows.heartbeat.db import make_engine
from data_flows.heartbeat.models import DataFlowBeat, DataFlowRun
from data_flows.heartbeat.security.policy import OPERATE

from . import host

TOKEN = "a-token-for-tests-and-nothing-else"  # noqa: S105 - no secret
OPERATOR = "an-operator-token-for-tests-alone"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ENGINE = "data_flows.heartbeat"

MakeHost = Callable[..., TestApp]


@pytest.fixture
def settings(database_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Make the settings of the host and of the engine in it."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    return {
        "sqlalchemy.url": database_url,
        "retry.attempts": "3",
        "heartbeat.token": TOKEN,
        "heartbeat.operator_token": OPERATOR,
    }


@pytest.fixture
def make_host(settings: dict[str, str]) -> Iterator[MakeHost]:
    """Make the host with the engine in it, and with flows."""
    registries: list[Any] = []

    def make(*flows: Callable[..., Any]) -> TestApp:
        with Configurator(settings=settings) as config:
            registries.append(config.registry)
            host.configure(config)
            config.include(ENGINE)
            add_operators_resource(config)
            for flow in flows:
                config.add_flow(flow, every="5m")
            host.Base.metadata.create_all(config.registry["dbsession_factory"].kw["bind"])
            return TestApp(config.make_wsgi_app())

    yield make
    for registry in registries:
        registry["heartbeat"].dispose()
        engine = registry["dbsession_factory"].kw["bind"]
        host.Base.metadata.drop_all(engine)
        engine.dispose()


def add_operators_resource(config: Configurator) -> None:
    """Add a resource as the engine's own for operators are declared."""
    config.add_route("resource", "/resource")
    config.add_view(
        lambda _request: Response("operated"),
        route_name="resource",
        permission=NO_PERMISSION_REQUIRED,
        require_csrf=False,
        heartbeat_permission=OPERATE,
        heartbeat_methods=("GET", "POST"),
    )


def what_the_host_set(config: Configurator) -> dict[str, Any]:
    """Return what must be the same after the engine came."""
    config.commit()
    registry = config.registry
    asked = (
        IDefaultCSRFOptions,
        IDefaultPermission,
        IExecutionPolicy,
        IRootFactory,
        ISecurityPolicy,
        ISessionFactory,
    )
    tweens = registry.queryUtility(ITweens)
    return {
        **{interface.__name__: registry.queryUtility(interface) for interface in asked},
        "settings": dict(registry.settings),
        "tweens": tweens.implicit() if tweens else None,
        "views of the host": [
            (item["introspectable"]["name"], item["introspectable"]["route_name"])
            for item in config.introspector.get_category("views") or []
            if item["introspectable"]["route_name"] in {"login", "pages", "csrf", "retried"}
        ],
    }


def test_nothing_of_the_host_changes(settings: dict[str, str]) -> None:
    config = Configurator(settings=settings, autocommit=False)
    host.configure(config)
    before = what_the_host_set(config)
    csrf = before["IDefaultCSRFOptions"]
    rules_before = dict(vars(csrf))

    config.include(ENGINE)
    after = what_the_host_set(config)

    assert after == before
    assert rules_before == dict(vars(after["IDefaultCSRFOptions"]))
    assert rules_before["require_csrf"] is True
    assert isinstance(after["ISecurityPolicy"], host.HostPolicy)
    assert after["settings"]["tm.manager_hook"] is pyramid_tm.explicit_manager
    config.registry["heartbeat"].dispose()
    config.registry["dbsession_factory"].kw["bind"].dispose()


def test_a_bare_application_is_given_nothing_either(settings: dict[str, str]) -> None:
    config = Configurator(settings=settings)
    before = what_the_host_set(config)

    config.include(ENGINE)
    after = what_the_host_set(config)

    assert after == before
    assert after["ISecurityPolicy"] is after["ISessionFactory"] is None
    assert not any(name.startswith("tm.") for name in after["settings"])
    config.registry["heartbeat"].dispose()


def test_the_order_of_inclusion_does_not_matter(settings: dict[str, str]) -> None:
    with Configurator(settings=settings) as config:
        config.include(ENGINE)
        host.configure(config)
        app = TestApp(config.make_wsgi_app())

    app.post("/heartbeat", headers=BEARER, status=200)
    app.post("/heartbeat", status=401)
    config.registry["heartbeat"].dispose()
    config.registry["dbsession_factory"].kw["bind"].dispose()


def test_the_beat_is_guarded_by_the_token_alone(make_host: MakeHost) -> None:
    app = make_host()

    app.post("/heartbeat", status=401)
    app.get("/login?user=editor")
    app.post("/heartbeat", status=401)
    csrf = app.get("/csrf").text
    app.post("/heartbeat", {"csrf_token": csrf}, headers={"X-CSRF-Token": csrf}, status=401)
    app.post("/heartbeat", headers=BEARER, status=200)
    app.reset()
    app.post("/heartbeat", headers=BEARER, status=200)


def test_the_hosts_own_views_work_as_before(make_host: MakeHost) -> None:
    app = make_host()

    app.get("/pages", status=403)
    app.get("/login?user=anybody")
    assert app.get("/pages", status=200).text == "0"
    app.post("/pages", status=400)
    app.post("/pages", {"csrf_token": app.get("/csrf").text}, status=200)
    assert app.get("/pages").text == "1"
    assert app.get("/retried", status=200).text == "at last"
    app.get("/pages", headers=BEARER, status=200)
    app.reset()
    app.get("/pages", headers=BEARER, status=403)
    app.get("/elsewhere", status=404)


def test_operators_resources_ask_the_hosts_policy(make_host: MakeHost) -> None:
    app = make_host()

    app.get("/resource", status=401)
    app.get("/login?user=anybody")
    app.get("/resource", status=401)
    app.get("/resource", headers=BEARER, status=403)
    app.get("/login?user=editor")
    assert app.get("/resource", status=200).text == "operated"
    app.reset()
    app.get("/resource", headers={"Authorization": f"Bearer {OPERATOR}"}, status=200)


def test_an_unsafe_request_that_a_cookie_authorises_needs_its_csrf_token(
    make_host: MakeHost,
) -> None:
    app = make_host()
    app.get("/login?user=editor")

    refused = app.post("/resource", status=400)

    assert refused.content_type == "application/problem+json"
    assert refused.headers["Cache-Control"] == "no-store"
    app.post("/resource", {"csrf_token": "guessed"}, status=400)
    csrf = app.get("/csrf").text
    app.post("/resource", {"csrf_token": csrf}, status=200)
    app.post("/resource", headers={"X-CSRF-Token": csrf}, status=200)
    app.post(
        "/resource",
        {"csrf_token": csrf},
        headers={"Origin": "https://evil.test", "Referer": "https://evil.test/"},
        extra_environ={"wsgi.url_scheme": "https"},
        status=400,
    )
    app.reset()
    app.post("/resource", headers={"Authorization": f"Bearer {OPERATOR}"}, status=200)


def test_no_retry_repeats_a_beat_and_the_hosts_transaction_has_no_part_in_it(
    make_host: MakeHost, dbsession: Session
) -> None:
    calls: list[int] = []

    def flaky(run: Run) -> None:
        calls.append(run.id)
        # What pyramid_retry takes for worth another try, in a view.
        raise OperationalError("a deadlock", {}, Exception("40001"))

    def aborting(run: Run) -> None:
        calls.append(run.id)
        transaction.abort()

    app = make_host(flaky, aborting)

    reply = app.post("/heartbeat", headers=BEARER, status=200).json

    assert (reply["flows_failed"], reply["flows_succeeded"]) == (1, 1)
    assert len(calls) == 2
    assert len(dbsession.scalars(select(DataFlowBeat)).all()) == 1
    statuses = dbsession.scalars(select(DataFlowRun.status)).all()
    assert sorted(statuses) == ["failed", "success"]


def test_the_beat_does_not_begin_the_hosts_session(make_host: MakeHost) -> None:
    seen: list[Request] = []
    app = make_host()
    wsgi_app: Any = app.app

    class Listener:
        """Keeps the requests that were answered."""

        def __call__(self, event: Any) -> None:
            seen.append(event.request)

    wsgi_app.registry.registerHandler(Listener(), (INewResponse,))

    app.post("/heartbeat", headers=BEARER, status=200)

    (request,) = seen
    assert "dbsession" not in request.__dict__
    assert "Set-Cookie" not in app.post("/heartbeat", headers=BEARER).headers


def test_migrate_brings_up_our_tables_in_the_hosts_database_beside_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    url = f"sqlite:///{tmp_path / 'host.sqlite'}"
    engine = make_engine(make_url(url))
    host.Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('the-hosts-own')")
    ini = tmp_path / "host.ini"
    ini.write_text(
        f"[app:main]\nuse = call:{host.__name__}:main\nsqlalchemy.url = {url}\n"
        f"heartbeat.token = {TOKEN}\n[server:main]\nuse = egg:waitress\nthreads = 8\n"
    )

    result = CliRunner().invoke(heartbeat_command, ["migrate", "-c", str(ini)])

    assert result.exit_code == 0, result.output
    tables = set(inspect(engine).get_table_names())
    assert {"data_flows", "data_flow_runs", "data_flow_beats", "data_flow_version"} < tables
    assert "host_pages" in tables
    with engine.connect() as connection:
        kept = connection.exec_driver_sql("SELECT version_num FROM alembic_version").all()
    assert kept == [("the-hosts-own",)]
    engine.dispose()

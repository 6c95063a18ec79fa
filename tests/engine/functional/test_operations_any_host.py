"""Operators in applications with policies, root factories and sessions of their own, or none."""

import pytest
from pyramid import testing
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.request import Request
from webtest import TestApp

from data_flows import heartbeat
from data_flows.heartbeat.security.policy import OPERATE

from .browsing import browser_of
from .conftest import OPERATOR

ENGINE = heartbeat.__name__


def test_a_root_factory_that_redirects_strangers_has_no_say(config: Configurator) -> None:
    def root_factory(_request: Request) -> None:
        raise HTTPSeeOther("/login")

    config.set_root_factory(root_factory)
    config.set_security_policy(testing.DummySecurityPolicy("ann", permissive=True))
    config.include(ENGINE)
    app = TestApp(config.make_wsgi_app())

    app.get("/heartbeat/flows", headers={"X-Heartbeat-Token": OPERATOR}, status=200)
    app.get("/heartbeat/flows", status=401)


def test_the_hosts_policy_is_asked_about_the_root_that_its_own_views_have(
    config: Configurator,
) -> None:
    config.set_root_factory(lambda request: request.params.get("user"))
    policy = testing.DummySecurityPolicy("anybody")
    policy.permits = lambda _request, context, name: (context, name) == ("ann", OPERATE)
    config.set_security_policy(policy)
    config.include(ENGINE)
    app = TestApp(config.make_wsgi_app())

    app.get("/heartbeat/flows?user=ann", status=200)
    app.get("/heartbeat/flows?user=bob", status=401)


def test_an_operator_of_the_hosts_policy_can_go_from_page_to_page(config: Configurator) -> None:
    config.set_security_policy(testing.DummySecurityPolicy("ann", permissive=True))
    config.include(ENGINE)

    page = browser_of(TestApp(config.make_wsgi_app())).get("/heartbeat/today", status=200)

    assert [link.text for link in page.html.select("nav a")] == ["Today", "Flows", "Runs", "Beats"]
    assert page.html.select_one("footer").text.split()[:2] == ["As", "of"]


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_a_session_that_may_operate_needs_something_that_checks_csrf_tokens(
    config: Configurator, method: str
) -> None:
    config.set_security_policy(testing.DummySecurityPolicy("ann", permissive=True))
    config.include(ENGINE)
    app = TestApp(config.make_wsgi_app())

    refused = app.request("/heartbeat/flows/greet", method=method, status=403)

    assert "no session factory" in refused.json["detail"]
    assert "send the operators' token in a header" in refused.json["detail"]
    app.get("/heartbeat/flows", status=200)

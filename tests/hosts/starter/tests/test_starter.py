"""The application's own tests, in the shape of the starter's."""

import pytest
import webtest
from pyramid import testing
from pyramid.request import apply_request_extensions
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from starter import main
from starter.models import Base, MyModel
from starter.views.default import home


@pytest.fixture
def dbengine():
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    return engine


@pytest.fixture
def app(dbengine):
    return webtest.TestApp(main({}, dbengine=dbengine, **{"sqlalchemy.url": "sqlite://"}))


@pytest.fixture
def dummy_request(app, dbengine):
    registry = app.app.registry
    request = testing.DummyRequest(registry=registry)
    with testing.testConfig(registry=registry, request=request):
        apply_request_extensions(request)
        request.tm.begin()
        yield request
        request.tm.abort()


def test_the_page_is_served(app):
    assert "starter: 0 models" in app.get("/", status=200).text


def test_what_is_not_there_is_told_in_its_own_words(app):
    assert app.get("/badurl", status=404).text == "starter: not found"


def test_the_view(dummy_request):
    dummy_request.dbsession.add(MyModel(name="one"))

    assert home(dummy_request) == {"count": 1}

"""The application's own tests."""

import pytest
import webtest

from api import main


@pytest.fixture
def app():
    return webtest.TestApp(main({}, **{"sqlalchemy.url": "sqlite://"}))


def test_what_the_specification_allows(app):
    assert app.get("/things?limit=2", status=200).json == ["thing", "thing"]


def test_what_it_refuses(app):
    assert app.get("/things?limit=0", status=400).json[0]["field"] == "limit"


def test_the_specification_is_served(app):
    assert "Things" in app.get("/openapi.yaml").text
    app.get("/docs", status=200)

"""The application's own tests."""

import pytest
import webtest

from service import main


@pytest.fixture
def app():
    return webtest.TestApp(main({}, **{"sqlalchemy.url": "sqlite://"}))


def test_values_are_set_and_given(app):
    app.put_json("/values/one", {"value": 1}, status=200)
    assert app.get("/values/one").json == {"value": 1}


def test_errors_are_told_as_cornice_does(app):
    refused = app.put_json("/values/one", {"value": "x"}, status=400).json
    assert refused["errors"][0]["name"] == "value"
    app.delete("/values/one", status=405)
    app.get("/nothing", status=404)

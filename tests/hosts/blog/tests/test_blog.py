"""The application's own tests."""

import pytest
import webtest
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from blog import main
from blog.models import Base


@pytest.fixture
def app():
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    return webtest.TestApp(main({}, dbengine=engine, **{"sqlalchemy.url": "sqlite://"}))


def test_visits_are_counted(app):
    assert app.get("/").text == "blog: [], 1"
    assert app.get("/").text == "blog: [], 2"


def test_entries_need_their_token(app):
    app.post("/blog/create", {"name": "one"}, status=400)
    token = app.get("/blog/token").text
    app.post("/blog/create", {"name": "one", "csrf_token": token}, status=200)
    assert app.get("/").text.startswith("blog: ['one']")


def test_all_else_is_caught(app):
    assert app.get("/heart", status=404).text == "blog: nothing is called heart"

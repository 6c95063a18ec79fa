"""The application's own tests, in the shape of the tutorial's."""

import pytest
import webtest
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from wiki import main
from wiki.models import Base


@pytest.fixture
def app():
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    return webtest.TestApp(main({}, dbengine=engine, **{"sqlalchemy.url": "sqlite://"}))


def test_strangers_are_sent_to_the_login_page(app):
    assert app.get("/FrontPage", status=303).location.endswith("/login")


def test_users_see_pages_and_editors_add_them(app):
    app.post("/login", {"login": "basic"}, status=303)
    app.get("/FrontPage", status=404)
    assert app.post("/add_page/FrontPage", status=403).text == "wiki: forbidden"
    app.reset()
    app.post("/login", {"login": "editor"})
    app.post("/add_page/FrontPage", status=200)
    assert app.get("/FrontPage").text == "wiki: FrontPage"

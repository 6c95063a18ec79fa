"""The home page, as anybody sees it who reaches the application."""

from typing import Any

from webtest import TestApp


def setting(app: TestApp, name: str, default: str) -> str:
    """Return what the .ini file says of `name`."""
    wsgi_app: Any = app.app
    value: str = wsgi_app.registry.settings.get(name, default)
    return value


def test_the_home_page_names_the_project(app: TestApp) -> None:
    name = setting(app, "project.name", "Data flows")

    page: Any = app.get("/", status=200).html

    assert page.title.text == name
    assert page.h1.text == name
    assert page.html["lang"] == "en"


def test_the_home_page_tells_how_to_call_the_heartbeat(app: TestApp) -> None:
    path = setting(app, "heartbeat.path", "/heartbeat")

    page = app.get("/", status=200).html

    assert "curl -X POST" in page.text
    assert f"http://localhost{path}" in page.text


def test_the_home_page_tells_no_names_of_flows(app: TestApp) -> None:
    assert "import_csv" not in app.get("/", status=200).text

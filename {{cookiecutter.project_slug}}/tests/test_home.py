"""The home page, as anybody sees it who reaches the application."""

from typing import Any

from webtest import TestApp


def test_the_home_page_names_the_project_and_how_to_call_it(app: TestApp) -> None:
    wsgi_app: Any = app.app
    settings: dict[str, str] = wsgi_app.registry.settings

    page: Any = app.get("/", status=200).html

    assert page.html["lang"] == "en"
    assert page.title.text == page.h1.text == settings["project.name"]
    path = settings.get("heartbeat.path", "/heartbeat")
    assert "curl -X POST" in page.text
    assert f"http://localhost{path}" in page.text


def test_the_home_page_names_no_flow(app: TestApp) -> None:
    assert "import_csv" not in app.get("/", status=200).text

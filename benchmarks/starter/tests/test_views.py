"""The tests of the project, on a database of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyramid.paster import get_appsettings
from starter import main  # type: ignore[import-not-found]
from webtest import TestApp  # type: ignore[import-not-found]


@pytest.fixture
def application(tmp_path: Path) -> Any:
    """Return a client of the application, with empty tables."""
    settings = dict(get_appsettings("development.ini"))
    settings |= {"sqlalchemy.url": f"sqlite:///{tmp_path}/test.sqlite", "starter.create": "yes"}
    return TestApp(main({}, **settings))


def test_home(application: Any) -> None:
    """Show the title."""
    assert "starter" in application.get("/", status=200).text  # noqa: S101 - how pytest works


def test_insert(application: Any) -> None:
    """Insert a row, and commit it."""
    assert application.get("/insert").json == {"ok": 1}  # noqa: S101
    assert application.get("/insert").json == {"ok": 2}  # noqa: S101


def test_not_found(application: Any) -> None:
    """Reply 404."""
    application.get("/missing", status=404)

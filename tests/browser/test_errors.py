"""Errors are pages with a way back, and nothing that was stored becomes part of a page."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

from .site import connect

if TYPE_CHECKING:
    import sqlite3

    from .conftest import Visit
    from .site import Site

pytestmark = [pytest.mark.install, pytest.mark.slow, pytest.mark.xdist_group("browser")]

HOSTILE = "<img src=x onerror=alert(1)></pre><script>alert(2)</script>{{ 7 * 7 }}&lt;"
CONTROLS = "\x1b[31m\u202egpj.exe\x00\u2028"
# Written as they are, they would change how other text is shown, or what a terminal does.
INVISIBLE = ("\x1b", "\u202e", "\u2028", "\x00")


@pytest.mark.parametrize(
    ("path", "status"),
    [("/flows/nobody", 404), ("/runs/999999", 404), ("/runs/x", 404), ("/nothing/here", 404)],
)
def test_what_does_not_exist_is_a_page_with_a_way_back(
    site: Site, visit: Visit, path: str, status: int
) -> None:
    visitor = visit(site)
    visitor.sign_in()
    page = visitor.open(path)

    expect(page.get_by_text(str(status))).to_be_visible()
    expect(page.get_by_role("navigation", name="Pages")).to_be_visible()
    page.get_by_role("link", name="Back to").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Flows")


def test_a_database_that_is_away_is_a_page_that_says_so(site: Site, visit: Visit) -> None:
    visitor = visit(site)
    page = visitor.sign_in(path="/flows")
    files = [*site.folder.glob("site.sqlite*")]
    away = site.folder / "away"
    away.mkdir()
    for file in files:
        file.rename(away / file.name)
    (site.folder / "site.sqlite").mkdir()  # so that nothing makes a new one

    for path in ("/today", "/flows", "/flows/import_csv", "/runs", "/runs/1", "/beats"):
        visitor.open(path)
        expect(page.get_by_text("503")).to_be_visible()
        expect(page.locator("main")).to_contain_text("database")
        expect(page.get_by_role("link", name="Back to")).to_be_visible()
    (site.folder / "site.sqlite").rmdir()
    for file in files:
        (away / file.name).rename(file)
    page.get_by_role("link", name="Flows", exact=True).click()

    expect(page.get_by_role("row", name="shop_123")).to_be_visible()


def test_stored_text_is_shown_as_text(site: Site, visit: Visit) -> None:
    text = f"{HOSTILE}{CONTROLS}"
    name = HOSTILE.replace("/", "|")
    hostile = {"handler": "read_feed", "every": "1d", "configuration": {"error": text}}
    site.operate("POST", "/flows", name=name, **hostile)
    site.beat()
    with closing(connect(site.folder)) as database:
        spoil(database, name, text)
    visitor = visit(site)
    visitor.sign_in()

    run = site.operate("GET", "/runs?status=failed&limit=1")["runs"][0]
    for path in ("/today", "/flows", "/runs?status=failed", f"/runs/{run['id']}", "/beats"):
        check_text(visitor.open(path), path)
    visitor.open("/flows").get_by_role("link", name="<img").first.click()
    expect(visitor.page.get_by_role("heading", level=1)).to_contain_text("<img src=x")
    check_text(visitor.page, "the flow")


def spoil(database: sqlite3.Connection, name: str, text: str) -> None:
    """Write a text to every column of a flow and its runs that is shown and takes any."""
    row = (text, text, name)
    database.execute(
        "UPDATE data_flows SET description = ?, disabled_reason = ? WHERE name = ?", row
    )
    columns = ("error_type", "error_message", "error_backtrace", "log", "worker")
    changes = ", ".join(f"{column} = :text" for column in columns)
    of_flow = "data_flow_id = (SELECT id FROM data_flows WHERE name = :name)"
    values = {"text": text[:200], "name": name}
    statement = f"UPDATE data_flow_runs SET {changes} WHERE {of_flow}"  # noqa: S608 - our own words
    database.execute(statement, values)
    database.execute("UPDATE data_flow_beats SET source = :text", values)
    database.commit()


def check_text(page: Page, path: str) -> None:
    """Check that a page shows the text, and that it has become neither an element nor a control."""
    html = page.content()
    assert "&lt;img src=x onerror" in html, path
    assert page.locator("main img, main script").count() == 0, path
    assert [mark for mark in INVISIBLE if mark in html] == [], path
    assert "49" not in page.locator("h1").inner_text(), path

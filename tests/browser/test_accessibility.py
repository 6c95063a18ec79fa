"""WCAG 2.2 AA, as far as axe can judge it: each page, light and dark, wide and narrow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from .site import Site, make_database, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page
    from test_project import Project

    from .conftest import Visit

pytestmark = [pytest.mark.install, pytest.mark.slow, pytest.mark.xdist_group("browser")]

RULES = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
PATHS = (
    *("/today", "/flows", "/flows?state=paused", "/flows?q=nothing-like-this"),
    *("/flows/import_orders", "/flows/nightly_report", "/flows/clean_inbox"),
    *("/runs", "/runs?status=failed", "/beats", "/flows/nobody", "/runs/999999"),
)


@pytest.fixture(scope="module", params=[0, 50], ids=["empty", "50 flows"])
def looked_at(
    shops: Project, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A site with a long history, and one that has not begun."""
    folder = tmp_path_factory.mktemp("looked-at")
    database = make_database(shops, folder / "filled", request.param)
    with serve(shops, folder / "site", database) as site:
        yield site


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_no_page_violates_the_rules(
    looked_at: Site, visit: Visit, scheme: str, viewport: dict[str, int]
) -> None:
    visitor = visit(looked_at, color_scheme=scheme, viewport=viewport)
    found = violations(visitor.open("/today"))
    page = visitor.sign_in("wrong")
    expect(page.get_by_role("alert")).to_be_visible()
    found += violations(page)
    visitor.sign_in()
    for path in PATHS:
        found += violations(visitor.open(path))
    last_failed = visitor.open("/runs?status=failed").locator("main a[href*='/runs/']")
    if last_failed.count():
        page.goto(f"{looked_at.url}{last_failed.first.get_attribute('href')}")
        found += violations(page)

    assert found == []


def violations(page: Page) -> list[str]:
    """Return what axe finds on a page, and whether the page is wider than the window."""
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    found = Axe().run(page, options={"runOnly": RULES, "resultTypes": ["violations"]})
    lines = [
        f"{page.url}: {violation['id']}: {node['target']}: {node['failureSummary']}"
        for violation in found.response["violations"]
        for node in violation["nodes"]
    ]
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        lines.append(f"{page.url}: is wider than the window")
    return lines

"""Keys instead of a mouse: each page by its keys, and a focus that can be followed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    from .conftest import Visit
    from .site import Site

pytestmark = [pytest.mark.install, pytest.mark.slow, pytest.mark.xdist_group("browser")]

# What has the focus, and the width of the line around it.
FOCUSED = """() => {
  const element = document.activeElement, style = getComputedStyle(element);
  const width = style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth);
  const name = element === document.body ? "BODY" : element.textContent.trim();
  return [name || element.id || element.tagName, width];
}"""


def test_the_sign_in_needs_no_mouse(site: Site, visit: Visit) -> None:
    visitor = visit(site)
    page = visitor.open("/today")
    expect(page.get_by_label("Operator")).to_be_focused()

    page.keyboard.type("not-the-token")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_label("Operator")).to_be_focused()
    forwards = [focus(page), press(page, "Tab")]
    backwards = [press(page, "Shift+Tab") for _ in range(3)]

    assert [name for name, _width in forwards] == ["token", "Sign in"]
    assert [name for name, _width in backwards] == ["token", "Data Flows", "Skip to the content"]
    assert all(width >= 2 for _name, width in forwards + backwards)


def test_keys_lead_to_the_pages(site: Site, visit: Visit) -> None:
    page = visit(site).sign_in()
    expect(page.get_by_role("heading", level=1)).to_have_text("Today")
    for key, name in (("f", "Flows"), ("r", "Runs"), ("b", "Beats"), ("t", "Today")):
        page.wait_for_load_state()
        page.keyboard.press("g")
        page.keyboard.press(key)
        expect(page).to_have_url(f"{site.url}/heartbeat/{name.lower()}")
        expect(page.get_by_role("heading", level=1)).to_have_text(name)


def test_slash_searches_and_types_no_slash(site: Site, visit: Visit) -> None:
    page = visit(site).sign_in(path="/flows")
    search = page.get_by_role("searchbox")
    expect(search).not_to_be_focused()

    page.keyboard.press("/")
    expect(search).to_be_focused()
    # Within a field, letters are text.
    page.keyboard.type("g f/?")
    expect(search).to_have_value("g f/?")
    search.fill("shop_12")
    page.keyboard.press("Enter")

    expect(page.get_by_role("rowheader")).to_have_count(10)


def test_a_question_mark_shows_the_keys(site: Site, visit: Visit) -> None:
    page = visit(site).sign_in(path="/flows")
    expect(page.get_by_text("Keys:")).not_to_be_in_viewport()

    page.keyboard.press("?")

    expect(page.get_by_text("Keys:")).to_be_in_viewport()


def test_the_focus_is_visible_wherever_it_goes(site: Site, visit: Visit) -> None:
    visitor = visit(site)
    expect(visitor.sign_in().get_by_role("heading", level=1)).to_have_text("Today")
    for path in ("/today", "/flows?q=shop_123", "/flows/orders_of_shop_123", "/runs", "/beats"):
        page = visitor.open(path)
        # The footer has no place to go to: after the last one, the browser begins again.
        places = [press(page, "Tab") for _ in range(25)]
        assert places[0][0] == "Skip to the content", path
        assert [place for place in places if place[1] < 2 and place[0] != "BODY"] == [], path


def test_the_content_is_reached_past_the_navigation(site: Site, visit: Visit) -> None:
    page = visit(site).sign_in(path="/flows")
    press(page, "Tab")
    page.keyboard.press("Enter")

    expect(page.locator("main")).to_be_focused()
    assert press(page, "Tab")[0] == "q"


def focus(page: Page) -> tuple[str, float]:
    """Return what has the focus, and the width of the line around it."""
    name, width = page.evaluate(FOCUSED)
    return str(name), float(width)


def press(page: Page, key: str) -> tuple[str, float]:
    """Press a key; return what then has the focus."""
    page.keyboard.press(key)
    return focus(page)

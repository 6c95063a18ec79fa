"""Pages update themselves where this disturbs nobody. The clock of the page is the test's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Request

    from .conftest import Visit
    from .site import Site
    from .visitor import Visitor

pytestmark = [pytest.mark.install, pytest.mark.slow, pytest.mark.xdist_group("browser")]

A_MINUTE = 60_000
HIDE = (
    """hidden => Object.defineProperty(document, "hidden", {configurable: true, value: hidden})"""
)
MENU = """main => main.insertAdjacentHTML("afterbegin",
  "<details data-menu><summary>Menu</summary><a href='#x'>Entry</a></details>")"""


def at_the_flows(site: Site, visit: Visit) -> Visitor:
    """Sign in and open the flows, whose time the test then moves."""
    visitor = visit(site)
    visitor.page.clock.install()
    page = visitor.sign_in(path="/flows?q=shop_123")
    expect(page.get_by_role("row", name="shop_123")).to_contain_text("failing")
    return visitor


def updates_in_a_minute(visitor: Visitor) -> int:
    """Move the page's time a minute ahead; return how often it has asked for an update."""
    visitor.updates.clear()
    visitor.page.clock.run_for(A_MINUTE)
    # A request of our own comes after all that the page has sent.
    visitor.page.evaluate("fetch('/heartbeat/sign-in').catch(() => {})")
    return len(visitor.updates)


def is_update(request: Request) -> bool:
    """Return whether the script that updates pages has sent it."""
    return "x-live" in request.headers


def test_a_page_updates_what_has_changed_and_nothing_else(site: Site, visit: Visit) -> None:
    visitor = at_the_flows(site, visit)
    page = visitor.page
    page.evaluate("window.isSamePage = true")
    link = page.get_by_role("link", name="orders_of_shop_123")
    link.focus()
    good = {"currency": "EUR", "orders": 7}
    site.operate("PATCH", "/flows/orders_of_shop_123", configuration=good)
    site.operate("POST", "/flows/orders_of_shop_123/runs")

    row = page.get_by_role("row", name="shop_123")
    while "ok" not in row.inner_text():
        with page.expect_response(lambda response: is_update(response.request)):
            page.clock.run_for(A_MINUTE)

    expect(link).to_be_focused()
    assert page.evaluate("window.isSamePage")


def test_a_hidden_tab_asks_for_nothing(site: Site, visit: Visit) -> None:
    visitor = at_the_flows(site, visit)
    visitor.page.evaluate(HIDE, arg=True)
    assert updates_in_a_minute(visitor) == 0

    visitor.page.evaluate(HIDE, arg=False)
    assert updates_in_a_minute(visitor) > 0


def test_a_form_with_the_focus_is_left_alone(site: Site, visit: Visit) -> None:
    visitor = at_the_flows(site, visit)
    search = visitor.page.get_by_role("searchbox")
    search.fill("half a word")
    assert updates_in_a_minute(visitor) == 0

    search.blur()
    assert updates_in_a_minute(visitor) > 0
    expect(search).to_have_value("half a word")


def test_an_open_menu_stays_open(site: Site, visit: Visit) -> None:
    visitor = at_the_flows(site, visit)
    page = visitor.page
    page.locator("main").evaluate(MENU)
    page.get_by_text("Menu").click()
    assert updates_in_a_minute(visitor) == 0
    expect(page.get_by_role("link", name="Entry")).to_be_visible()

    page.get_by_text("Menu").click()
    page.locator("main").focus()
    assert updates_in_a_minute(visitor) > 0


def test_selected_text_stays_selected(site: Site, visit: Visit) -> None:
    visitor = at_the_flows(site, visit)
    visitor.page.get_by_role("link", name="orders_of_shop_123").select_text()
    assert updates_in_a_minute(visitor) == 0


def test_an_update_that_fails_is_tried_again(site: Site, visit: Visit) -> None:
    visitor = at_the_flows(site, visit)
    visitor.context.set_offline(True)
    assert updates_in_a_minute(visitor) > 1

    visitor.context.set_offline(False)
    with visitor.page.expect_response(lambda response: is_update(response.request) and response.ok):
        visitor.page.clock.run_for(A_MINUTE)
    # The browser itself logs this.
    visitor.problems[:] = [text for text in visitor.problems if "DISCONNECTED" not in text]

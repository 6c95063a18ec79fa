"""What an operator comes for: what fails, why, and the way back to all being well."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Locator, Page, expect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Visit
    from .site import Site

pytestmark = [pytest.mark.install, pytest.mark.xdist_group("browser")]

FAILING = "orders_of_shop_123"
ERROR = "no rate for the currency 'EURO': known are EUR, CHF, USD"


@contextmanager
def existing(file: Path) -> Iterator[None]:
    """Make a file that the sample flows look for, and remove it afterwards."""
    file.touch()
    try:
        yield
    finally:
        file.unlink()


def heading(page: Page) -> Locator:
    """Return the heading of a page."""
    return page.get_by_role("heading", level=1)


def test_a_failing_flow_is_found_understood_fixed_and_seen_to_succeed(
    site: Site, visit: Visit
) -> None:
    page = visit(site).sign_in()
    expect(page.get_by_text("1 of 200 flows in trouble")).to_be_visible()

    # The backtrace is two clicks away from the start page.
    page.get_by_role("link", name=FAILING).first.click()
    expect(heading(page)).to_have_text(FAILING)
    page.get_by_role("row", name="failed").get_by_role("link").click()
    expect(page.get_by_role("region", name="Backtrace")).to_contain_text(ERROR)
    expect(page.get_by_role("region", name="Backtrace")).to_contain_text("rate_of(shop.currency)")

    page.get_by_role("link", name=FAILING).click()
    page.get_by_label("currency").fill("USD")
    page.get_by_label("orders").fill("many")
    page.get_by_role("button", name="Save and run now").click()
    expect(page.get_by_label("orders")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("orders")).to_have_value("many")
    expect(page.get_by_label("currency")).to_have_value("USD")

    page.get_by_label("orders").fill("7")
    with existing(site.project.folder / "var" / "hold"):
        page.get_by_role("button", name="Save and run now").click()
        expect(page.locator("main .state").first).to_have_text(re.compile("in progress|running"))
        page.evaluate("window.isSamePage = true")
    expect(page.locator("main .state").first).to_have_text(re.compile("success"))
    expect(page.get_by_role("region", name="Result")).to_contain_text("7.63")
    assert page.evaluate("window.isSamePage")

    page.get_by_role("link", name="Today").click()
    expect(page.get_by_text("All is well: 200 of 200 flows on time")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Operator")).to_be_visible()


@pytest.mark.slow
def test_ten_filtered_flows_are_paused_and_resumed(site: Site, visit: Visit) -> None:
    page = visit(site).sign_in(path="/flows")
    page.get_by_role("searchbox").fill("feed_0")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("rowheader")).to_have_count(10)

    page.get_by_label("For").select_option("all")
    page.get_by_label("Reason of the pause").fill("the feeds <move>")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("row", name="paused")).to_have_count(10)
    rows = page.get_by_role("rowheader")
    expect(rows.first).to_contain_text(re.compile("127.0.0.1 ann: the feeds <move>"))
    assert paused(site) == {f"feed_{number:02}" for number in range(10)}

    page.get_by_label("Choose feed_03").check()
    page.get_by_label("Choose feed_07").check()
    page.get_by_label("For").select_option("chosen")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("row", name="paused")).to_have_count(8)
    page.get_by_label("For").select_option("all")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("row", name="paused")).to_have_count(0)
    assert paused(site) == set()


@pytest.mark.slow
def test_everything_is_paused_with_a_banner_and_resumed(site: Site, visit: Visit) -> None:
    visitor = visit(site)
    page = visitor.sign_in(path="/flows")
    site.operate("PATCH", "/flows/feed_11", enabled=False)

    page.get_by_label("For").select_option("all")
    page.get_by_label("Reason of the pause").fill("the database moves")
    page.get_by_role("button", name="Pause").click()
    for path in ("/today", "/flows", "/runs", "/beats", f"/flows/{FAILING}"):
        visitor.open(path)
        expect(page.get_by_text("All flows are paused")).to_be_visible()
        expect(page.locator(".banners")).to_contain_text("the database moves")
    assert len(paused(site)) == 200

    page.get_by_role("button", name="Resume them").click()
    expect(page.get_by_text("All flows are paused")).to_have_count(0)
    assert paused(site) == {"feed_11"}


@pytest.mark.slow
def test_failures_are_grouped_and_all_run_again(site: Site, visit: Visit) -> None:
    visitor = visit(site)
    page = visitor.sign_in(path="/flows?q=feed_")
    with existing(site.project.folder / "var" / "outage"):
        page.get_by_label("For").select_option("all")
        page.get_by_role("button", name="Run now", exact=True).click()
        expect(page.get_by_text("Requested a run of 12 flows")).to_be_visible()
        site.beat()

    page.get_by_role("link", name="Runs", exact=True).click()
    page.get_by_role("link", name="failures by error").click()
    group = page.get_by_role("table", name="ConnectionError")
    expect(group.get_by_role("row", name="failing")).to_have_count(12)
    expect(page.get_by_role("table", name="LookupError").get_by_role("rowheader")).to_have_count(1)
    page.get_by_role("button", name="Run all again: 12 still failing").click()
    page.evaluate("window.isSamePage = true")
    site.beat()

    expect(group.get_by_role("row", name="ok")).to_have_count(12)
    assert page.evaluate("window.isSamePage")


@pytest.mark.slow
def test_a_run_is_repeated_with_another_configuration(site: Site, visit: Visit) -> None:
    visitor = visit(site)
    visitor.sign_in()
    run = site.operate("GET", "/runs?status=failed")["runs"][0]
    page = visitor.open(f"/runs/{run['id']}")

    page.get_by_text("Run again with another configuration").click()
    page.get_by_label("currency").fill("CHF")
    page.get_by_role("button", name="Save and run now").click()

    expect(page.locator("main .state").first).to_have_text(re.compile("success"))
    expect(page).not_to_have_url(re.compile(f"/runs/{run['id']}"))


@pytest.mark.slow
def test_everything_works_without_javascript(site: Site, visit: Visit) -> None:
    visitor = visit(site, java_script_enabled=False)
    page = visitor.sign_in("wrong")
    expect(page.get_by_role("alert")).to_be_visible()
    visitor.sign_in()
    page.get_by_role("link", name=FAILING).first.click()
    page.get_by_role("row", name="failed").get_by_role("link").click()
    expect(page.get_by_role("region", name="Backtrace")).to_contain_text(ERROR)
    page.get_by_text("Run again with another configuration").click()
    page.get_by_label("currency").fill("EUR")
    page.get_by_role("button", name="Save and run now").click()
    site.beat()
    page.reload()
    expect(page.locator("main .state").first).to_have_text(re.compile("success"))

    page.get_by_role("link", name="Flows", exact=True).click()
    page.get_by_role("searchbox").fill("feed_0")
    page.get_by_role("button", name="Search").click()
    page.get_by_label("For").select_option("all")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("row", name="paused")).to_have_count(10)
    page.get_by_label("For").select_option("all")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("row", name="paused")).to_have_count(0)
    page.get_by_role("link", name="feed_01").click()
    page.get_by_role("button", name="Run now", exact=True).click()
    expect(heading(page)).to_have_text(re.compile(r"Run \d+ of feed_01"))

    for name in ("Runs", "Beats", "Today"):
        pages = page.get_by_role("navigation", name="Pages")
        pages.get_by_role("link", name=name).click()
        expect(heading(page)).to_have_text(name)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Operator")).to_be_visible()


def paused(site: Site) -> set[str]:
    """Return the names of the flows that are paused."""
    flows = site.operate("GET", "/flows")["flows"]
    return {flow["name"] for flow in flows if not flow["enabled"]}

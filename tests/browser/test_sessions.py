"""Signing in and out, and how sessions end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from .conftest import Visit
    from .site import Site

pytestmark = [pytest.mark.install, pytest.mark.slow, pytest.mark.xdist_group("browser")]


def test_signing_in_and_out(site: Site, visit: Visit) -> None:
    visitor = visit(site)
    page = visitor.sign_in(path="/flows?q=feed")

    expect(page).to_have_url(f"{site.url}/heartbeat/flows?q=feed")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Operator")).to_be_focused()
    visitor.open("/today")

    expect(page).to_have_url(f"{site.url}/heartbeat/sign-in?next=%2Fheartbeat%2Ftoday")


def test_a_wrong_token_is_refused_and_the_right_one_then_accepted(site: Site, visit: Visit) -> None:
    visitor = visit(site)
    page = visitor.sign_in("not-the-token")

    expect(page.get_by_role("alert")).to_contain_text("not a valid token")
    token = page.get_by_label("Operator")
    expect(token).to_be_focused()
    expect(token).to_have_attribute("aria-invalid", "true")
    expect(token).to_have_value("")
    visitor.sign_in()

    expect(page).to_have_url(f"{site.url}/heartbeat/today")


@pytest.mark.parametrize("is_updated_by_script", [False, True])
def test_an_expired_session_leads_to_the_sign_in_and_back(
    site: Site, visit: Visit, is_updated_by_script: bool
) -> None:
    page = visit(site).sign_in(path="/flows?q=feed")
    expect(page.get_by_role("row").first).to_be_visible()
    site.set_hours_ahead(9)

    if not is_updated_by_script:
        page.reload()

    expect(page.get_by_label("Operator")).to_be_visible()
    page.get_by_label("Operator").fill("the-operators-token-of-ann")
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(f"{site.url}/heartbeat/flows?q=feed")


def test_a_rotated_token_ends_the_session(site: Site, visit: Visit) -> None:
    ann, bob = visit(site), visit(site)
    page = ann.sign_in()
    expect(page.get_by_text("ann", exact=True)).to_be_visible()
    advice = site.heartbeat("token", "rotate", "--role", "operator", "--name", "bob")
    old = next(line for line in advice.splitlines() if "--remove" in line).split()[-1]
    expect(bob.sign_in(token_of(site)).get_by_text("bob", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_text("ann", exact=True)).to_be_visible()

    site.heartbeat("token", "rotate", "--role", "operator", "--remove", old)
    for visitor in (ann, bob):
        visitor.page.reload()

    expect(page.get_by_label("Operator")).to_be_visible()
    expect(bob.page.get_by_text("bob", exact=True)).to_be_visible()


def test_a_form_without_its_token_changes_nothing(site: Site, visit: Visit) -> None:
    visitor = visit(site)
    page = visitor.sign_in()
    page.locator(".account [name=csrf_token]").evaluate("field => field.remove()")

    page.get_by_role("button", name="Sign out").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("Forbidden")
    visitor.open("/flows")
    expect(page.get_by_role("heading", level=1)).to_have_text("Flows")


def token_of(site: Site) -> str:
    """Return the newest token of the operators."""
    return site.heartbeat("token", "show", "--role", "operator").strip()

"""What a visitor without a token finds: sign-in, home page, static files and health routes."""

from __future__ import annotations

import re
from contextlib import closing
from html.parser import HTMLParser
from http.client import HTTPConnection, HTTPResponse
from ipaddress import IPv4Network
from itertools import cycle
from typing import TYPE_CHECKING
from urllib.parse import urldefrag, urljoin, urlsplit

import pytest
from playwright.sync_api import expect
from test_project import PATIENCE_SECONDS

if TYPE_CHECKING:
    from .conftest import Visit
    from .site import Site

pytestmark = [pytest.mark.install, pytest.mark.slow, pytest.mark.xdist_group("browser")]

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
OPEN = re.compile(
    r"/|/static/[^/]+|/heartbeat/sign-in|/heartbeat/static/\w+/[^/]+|/heartbeat/health(/live|/beats)?"
)
# What is on some page of an operator, and must be on none of a visitor.
SECRETS = ("orders_of_shop", "feed_", "import_csv", "EURO", "LookupError")
ADDRESSES = cycle(IPv4Network("127.1.0.0/16").hosts())
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Links(HTMLParser):
    """Collects where the links and forms of a page lead, with the method of each."""

    def __init__(self, page: str) -> None:
        """Begin a page."""
        super().__init__()
        self.page = page
        self.found: set[tuple[str, str]] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        given = dict(attrs)
        place = given.get("action") if tag == "form" else given.get("href") or given.get("src")
        if place is None and tag != "form":
            return
        address = urlsplit(urldefrag(urljoin(self.page, place or "")).url)
        if address.hostname == "127.0.0.1":
            path = f"{address.path}?{address.query}" if address.query else address.path
            self.found.add(((given.get("method") or "get").upper(), path))


def call(site: Site, method: str, path: str, accept: str) -> tuple[HTTPResponse, str]:
    """Send a request without a token or a cookie; return the reply and its text."""
    # Each from another address of this machine: none is refused because of those before it.
    source = (str(next(ADDRESSES)), 0)
    line = HTTPConnection("127.0.0.1", site.server.port, PATIENCE_SECONDS, source)
    with closing(line):
        line.request(method, path, "", {"Accept": accept})
        reply = line.getresponse()
        return reply, reply.read().decode()


def links_of(site: Site, path: str, html: str) -> set[tuple[str, str]]:
    """Return where a page leads, by method and path."""
    links = Links(f"{site.url}{path}")
    links.feed(html)
    return links.found


def links_of_an_operator(site: Site, visit: Visit) -> set[tuple[str, str]]:
    """Return where the pages of an operator lead: those of the navigation, and those after them."""
    visitor = visit(site)
    page = visitor.sign_in()
    expect(page.get_by_role("heading", level=1)).to_have_text("Today")
    found = links_of(site, "/heartbeat/today", page.content())
    # Of pages of one kind, one is enough: of each flow, each run and each filter.
    kinds = {"/heartbeat/today"}
    for _step in range(2):
        for method, path in sorted(found):
            kind = re.sub(r"[^/?=&]*\d[^/?=&]*|=[^&]*", "*", path)
            if method == "GET" and "/static/" not in path and kind not in kinds:
                kinds.add(kind)
                page.goto(f"{site.url}{path}")
                found |= links_of(site, path, page.content())
    return found


def test_a_visitor_finds_nothing_but_sign_in_home_page_static_files_and_health(
    site: Site, visit: Visit
) -> None:
    places = {("GET", "/"), ("GET", "/heartbeat"), ("GET", "/heartbeat/")}
    places |= links_of_an_operator(site, visit)
    assert ("POST", "/heartbeat/sign-out") in places
    for template in site.operate("GET", "/openapi.json")["paths"]:
        path = template.replace("{name}", "import_csv").replace("{id}", "1")
        places |= {(method, path) for method in METHODS}
    seen: set[tuple[str, str]] = set()
    while places - seen:
        for method, path in places - seen:
            for accept in (BROWSER, "application/json"):
                reply, text = call(site, method, path, accept)
                check(site, method, path, reply, text)
                if reply.getheader("Content-Type", "").startswith("text/html"):
                    places |= links_of(site, path, text)
            seen.add((method, path))

    assert len(seen) > 50


def check(site: Site, method: str, path: str, reply: HTTPResponse, text: str) -> None:
    """Check that a reply discloses nothing."""
    place = f"{method} {path}: {reply.status}"
    is_open = OPEN.fullmatch(path.partition("?")[0]) and method in {"GET", "HEAD"}
    if reply.status == 303:
        location = urlsplit(reply.getheader("Location", ""))
        assert location[1:3] == (urlsplit(site.url).netloc, "/heartbeat/sign-in"), place
    elif not is_open:
        assert reply.status in {401, 403, 404, 405}, place
    if "/static/" not in path:
        disclosed = [secret for secret in SECRETS if secret in text and secret not in path]
        assert not disclosed, f"{place}: {disclosed}"

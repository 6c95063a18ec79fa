"""Fixtures of the tests in a browser. Without Chromium, all of them are skipped, here alone."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol

import pytest
from playwright.sync_api import sync_playwright
from test_project import make_project, user_environment

from .site import Site, make_database, prepare, serve
from .visitor import Visitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser
    from test_project import Project

CHROMIUM = shutil.which("chromium")
FLOWS = 200


class Visit(Protocol):
    """Opens a browser of its own for a site; its options are those of Playwright's contexts."""

    def __call__(self, site: Site, **options: object) -> Visitor:
        """Open it."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    # Its sandbox refuses to work for root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens browsers. After the test, no page may have had an error."""
    visitors = []
    with ExitStack() as stack:

        def visit(site: Site, **options: object) -> Visitor:
            context = browser.new_context(**options)  # type: ignore[arg-type] # any of its options
            stack.callback(context.close)
            visitors.append(Visitor(context, site.url))
            return visitors[-1]

        yield visit
    assert [problem for visitor in visitors for problem in visitor.problems] == []


@pytest.fixture(scope="session")
def shops(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with the sample flows. It needs `browser`, so that nothing is made in vain."""
    assert browser.is_connected()
    folder = tmp_path_factory.mktemp("browser")
    project = make_project(folder, user_environment(folder))
    prepare(project)
    return project


@pytest.fixture(scope="session")
def many(shops: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of 200 flows that have run once; one has failed, for its configuration."""
    folder = tmp_path_factory.mktemp("many")
    empty = make_database(shops, folder / "empty")
    with serve(shops, folder / "site", empty) as site:
        names = [f"orders_of_shop_{number:03}" for number in range(FLOWS - 15)]
        names += [f"feed_{number:02}" for number in range(12)]
        for name in names:
            handler = "read_feed" if name.startswith("feed") else "import_orders"
            site.operate("POST", "/flows", name=name, handler=handler, every="1d")
        wrong = {"currency": "EURO", "orders": 7}
        site.operate("PATCH", "/flows/orders_of_shop_123", configuration=wrong)
        reply = site.beat()
    assert (reply["flows_succeeded"], reply["flows_failed"]) == (FLOWS - 1, 1)
    return folder / "site" / "site.sqlite"


@pytest.fixture
def site(shops: Project, many: Path, tmp_path: Path) -> Iterator[Site]:
    """A served project with 200 flows, of which one fails."""
    with serve(shops, tmp_path / "site", many) as site:
        yield site

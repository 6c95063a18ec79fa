"""`make screenshots`: every page, light and dark, wide and narrow, empty, with 8 and 1,000 flows.

They go to `var/screenshots/`, which git ignores. Two of them stand in README.md: docs/images/.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo import TEMPLATE, render, say, serve
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

SAMPLES = Path(__file__).parent / "samples"
TARGET = TEMPLATE / "var" / "screenshots"
IMAGES = TEMPLATE / "docs" / "images"
SIZES = (0, 8, 1_000)
WIDTHS: dict[str, ViewportSize] = {
    "wide": {"width": 1280, "height": 800},
    "narrow": {"width": 390, "height": 844},
}
PATHS = {
    "home": "/",
    "today": "/heartbeat/today",
    "flows": "/heartbeat/flows",
    "flows-paused": "/heartbeat/flows?state=paused",
    "flow": "/heartbeat/flows/import_orders",
    "flow-failing": "/heartbeat/flows/nightly_report",
    "runs": "/heartbeat/runs",
    "runs-failed": "/heartbeat/runs?status=failed",
    "runs-by-error": "/heartbeat/runs?by=error",
    "beats": "/heartbeat/beats",
    "error": "/heartbeat/runs/999999",
}
# Those of the README: of 8 flows, wide and light.
FOR_README = {"today": "today.png", "flow-failing": "flow.png"}
README_SIZE = 8
MAX_README_BYTES = 150_000


def main() -> int:
    """Make the screenshots; return the exit code."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    shutil.rmtree(TARGET, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="heartbeat-screenshots-") as folder:
        project = render(Path(folder))
        shutil.copy(SAMPLES / "flows.py", project / "src" / project.name / "flows" / "shops.py")
        ini = project / "development.ini"
        ini.write_text(ini.read_text().replace("pyramid.includes = pyramid_debugtoolbar\n", ""))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
            for size in SIZES:
                with history(project, size), serve(project) as url:
                    take_all(browser, project, url, size)
            browser.close()
    print(f"\n{len([*TARGET.glob('*.png')])} screenshots are in {TARGET}")
    return 0


@contextmanager
def history(project: Path, size: int) -> Iterator[None]:
    """Fill the project's empty database with so many flows, and empty it afterwards."""
    say(f"A history of {size} flows")
    ini = project / "development.ini"
    settings = ini.read_text()
    database = project / "var" / f"{project.name}.sqlite"
    spare = database.with_suffix(".empty")
    shutil.copy(database, spare)
    command = [".venv/bin/python", str(SAMPLES / "history.py"), f"sqlite:///{database}", str(size)]
    subprocess.run(command, cwd=project, check=True)
    yield
    ini.write_text(settings)  # with the port that `serve` looks for
    for file in database.parent.glob(f"{database.name}*"):
        file.unlink()
    spare.rename(database)


def take_all(browser: Browser, project: Path, url: str, size: int) -> None:
    """Take the screenshots of all pages for one size of the history."""
    token = (project / "var" / "operator.token").read_text().split()[0]
    for scheme in ("light", "dark"):
        for width, viewport in WIDTHS.items():
            context = browser.new_context(color_scheme=scheme, viewport=viewport)
            page = context.new_page()
            take(page, f"{url}/heartbeat/sign-in", f"sign-in-{size}-{width}-{scheme}")
            page.get_by_label("Operator").fill(token)
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url("**/today")
            for name, path in PATHS.items():
                take(page, url + path, f"{name}-{size}-{width}-{scheme}")
                if size == README_SIZE and (width, scheme) == ("wide", "light"):
                    put_into_readme(page, name)
            page.goto(f"{url}/heartbeat/runs?status=failed")
            if (link := page.locator("tbody a[href*='/runs/']")).count():
                address = f"{url}{link.first.get_attribute('href')}"
                take(page, address, f"run-failed-{size}-{width}-{scheme}")
            context.close()


def take(page: Page, url: str, name: str) -> None:
    """Take a screenshot of a whole page."""
    page.goto(url)
    page.screenshot(path=TARGET / f"{name}.png", full_page=True)
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        print(f"{name} is wider than the window")


def put_into_readme(page: Page, name: str) -> None:
    """Take what a window shows of a page for README.md, where this page is one of its two."""
    if name in FOR_README:
        place = IMAGES / FOR_README[name]
        page.screenshot(path=place)
        if place.stat().st_size > MAX_README_BYTES:
            sys.exit(f"{place} is larger than {MAX_README_BYTES} bytes")


if __name__ == "__main__":
    sys.exit(main())

"""A person at a browser, and everything that goes wrong on the pages they see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import expect

from .site import OPERATOR

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, Response

# In milliseconds: for conditions that come true at once, or with the next update of a page.
PATIENCE = 30_000
expect.set_options(timeout=PATIENCE)

# Reports what the policy of the page has refused, which not each version logs as an error.
REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""


class Visitor:
    """A browser without cookies. `problems` are the errors of all pages that it has shown."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        """Open a window."""
        context.set_default_timeout(PATIENCE)
        context.add_init_script(REPORT_VIOLATIONS)
        self.context = context
        self.url = url
        self.problems: list[str] = []
        # The requests of the script that updates pages.
        self.updates: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("console", self._note_message)
        self.page.on("request", self._note_request)
        self.page.on("response", self._note_response)
        self.page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))

    def open(self, path: str) -> Page:
        """Open a page of the engine."""
        self.page.goto(f"{self.url}/heartbeat{path}")
        return self.page

    def sign_in(self, token: str = OPERATOR, path: str = "/today") -> Page:
        """Open a page, and sign in for it."""
        self.open(path)
        self.page.get_by_label("Operator").fill(token)
        self.page.get_by_role("button", name="Sign in").click()
        return self.page

    def _note_message(self, message: ConsoleMessage) -> None:
        # A page with the status of an error is logged as this, too: _note_response decides.
        is_status = message.text.startswith("Failed to load resource: the server responded")
        if message.type in {"error", "warning"} and not is_status:
            self.problems.append(f"{message.location['url']}: {message.text}")

    def _note_request(self, request: Request) -> None:
        if not request.url.startswith(self.url):
            self.problems.append(f"a request to another host: {request.url}")
        if "x-live" in request.headers:
            self.updates.append(request.url)

    def _note_response(self, response: Response) -> None:
        if response.status >= 400 and not response.request.is_navigation_request():
            self.problems.append(f"{response.status}: {response.url}")

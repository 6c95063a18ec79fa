"""What tests of pages share: a browser that signs in, and its sessions."""

from typing import Any

from webtest import TestApp

from .operated import OPERATOR

ACCEPT = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def browser_of(app: TestApp, **environ: str) -> Any:
    """Return a browser without cookies that visits an application."""
    return TestApp(app.app, extra_environ={"HTTP_ACCEPT": ACCEPT, **environ})


def signed_in(app: TestApp, token: str = OPERATOR, **environ: str) -> Any:
    """Return a browser that has signed in with a token."""
    browser = browser_of(app, **environ)
    assert sign_in(browser, token).status_int == 303
    return browser


def sign_in(browser: Any, token: str, following: str = "", status: Any = None) -> Any:
    """Send the form of the sign-in; return the reply."""
    form = browser.get("/heartbeat/sign-in", {"next": following}).forms[0]
    form["token"] = token
    return form.submit(status=status)


def csrf_token_of(browser: Any) -> str:
    """Return the CSRF token of a session, as its forms have it."""
    return str(browser.get("/heartbeat/today").forms[0]["csrf_token"].value)

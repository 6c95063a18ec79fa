"""Renders pages: templates, errors as pages, and static files."""

import json
from functools import cache
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token
from pyramid.httpexceptions import exception_response
from pyramid.request import Request
from pyramid.response import Response
from pyramid.settings import asbool

from ...printing import printable
from . import charts, words
from .responses import prefers_html
from .sessions import prefix_of, renew, see_other, sign_in_path

# The navigation: the names of pages and what the links to them say.
NAVIGATION = {"today": "Today", "flows": "Flows", "runs": "Runs", "beats": "Beats"}
STATIC = files(__package__) / "static"
TYPES = {"pages.css": "text/css", "pages.js": "text/javascript", "icon.svg": "image/svg+xml"}
# In the URLs of the static files, so that browsers may keep them until they change.
DIGEST = sha256(b"".join((STATIC / name).read_bytes() for name in TYPES)).hexdigest()[:12]
YEAR = 365 * 86_400


class Browser:
    """A view predicate: true for callers that prefer HTML to JSON."""

    def __init__(self, _value: object, _config: Configurator) -> None:
        pass

    def text(self) -> str:
        """Return what `pviews` shows."""
        return "for a browser"

    phash = text

    def __call__(self, _context: object, request: Request) -> bool:
        """Return whether the page is meant."""
        return prefers_html(request)


def set_up_templates(config: Configurator) -> None:
    """Give the application the Jinja environment of the pages.

    Without including pyramid_jinja2: that would add a renderer to the application, and it looks for
    its caller in the whole stack, which takes longer than everything else that is included.
    """
    reload = asbool(config.registry.settings.get("pyramid.reload_templates"))
    config.registry["heartbeat.templates"] = _templates(auto_reload=reload)


@cache
def _templates(*, auto_reload: bool) -> Environment:
    """Make the environment. All applications of a process share it and its compiled templates."""
    templates = Environment(
        loader=PackageLoader(__package__),
        auto_reload=auto_reload,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Applies to each value that a template prints.
        finalize=_visible,
    )
    for module in (charts, words):
        templates.globals |= {name: getattr(module, name) for name in module.__all__}
    return templates


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """Return a page: a template with `values` and what each page needs. It renews the session."""
    registry = request.registry
    caller = request.environ.get("heartbeat.caller")
    prefix = prefix_of(request)
    common = {
        "project": registry.settings.get("project.name", "Data flows"),
        "prefix": prefix,
        "static": f"{prefix}/static/{DIGEST}",
        "navigation": {n: NAVIGATION[n] for n in NAVIGATION if n in registry["heartbeat.pages"]},
        "caller": caller,
        "csrf_token": _csrf_token(request),
        "now": request.heartbeat.clock.now(),
        "pages": registry["heartbeat.pages"],
        # A host's own policy may have authorised the caller.
        "may_operate": bool(values["active"] or (caller and caller.permission)),
        "notice": words.notice(request.environ.get("QUERY_STRING", "")),
        # Not for errors: the database may be away.
        "everything_paused": _pause_of_everything(request) if values["active"] else None,
    }
    html = registry["heartbeat.templates"].get_template(template).render(common | values)
    response = Response(html, status, content_type="text/html", charset="utf-8")
    response.headers.update({"Cache-Control": "no-store", "Vary": "Accept, Cookie"})
    renew(request, response)
    return response


def _pause_of_everything(request: Request) -> str | None:
    read = request.registry.get("heartbeat.pause_of_everything")
    if read is None:
        return None
    with request.heartbeat.session() as session:
        reason: str | None = read(session)
    return reason


def problem_page(request: Request, reply: Response) -> Response:
    """Return an error as a page for a browser; without a session, redirect to the sign-in.

    A scheduler may claim to be a browser: of a beat, only the refusal of its method is a page.
    """
    is_beat = request.matched_route is not None and request.matched_route.name == "heartbeat.beat"
    not_for_browsers = is_beat and reply.status_int != HTTPStatus.METHOD_NOT_ALLOWED
    if not_for_browsers or not prefers_html(request):
        return reply
    caller = request.environ.get("heartbeat.caller")
    problem: dict[str, Any] = json.loads(reply.body)
    if reply.status_int == HTTPStatus.UNAUTHORIZED:
        if caller is None or caller.csrf_token is None:
            return see_other(sign_in_path(request))
        # Paths that do not exist, which are open to tokens in headers alone.
        reply.status_int = HTTPStatus.NOT_FOUND
        problem |= {"status": 404, "title": "Not Found", "detail": "there is no such page"}
    shown = page(request, "problem.jinja2", reply.status_int, problem=problem, active="")
    for name in {"Allow", "Retry-After"} & set(reply.headers):
        shown.headers[name] = reply.headers[name]
    return shown


def static(request: Request) -> Response:
    """Return a static file. Its URL changes with its content."""
    name = request.matchdict["file"]
    if name not in TYPES:
        raise exception_response(404, detail="there is no such file")
    response = Response((STATIC / name).read_bytes(), content_type=TYPES[name], charset="utf-8")
    if request.matchdict["digest"] == DIGEST:
        response.headers["Cache-Control"] = f"public, max-age={YEAR}, immutable"
    else:  # an older or newer process has made the page
        response.headers["Cache-Control"] = "no-store"
    return response


def _csrf_token(request: Request) -> str:
    """Return the token of our session, or of the host's own whose policy authorised the caller."""
    caller = request.environ.get("heartbeat.caller")
    if caller is None or caller.csrf_token:
        return caller.csrf_token if caller else ""
    try:
        return str(get_csrf_token(request))
    except AttributeError:  # no session factory
        return ""


def _visible(value: object) -> object:
    """Return a text with escapes for control characters and marks that change its direction."""
    return printable(value, kept="\n\t") if type(value) is str else value

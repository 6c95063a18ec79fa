"""Optional: pages for a browser, of the resources that programs get as JSON.

A page is a view with the name of the route whose resource it shows. Pages of optional modules that
are not wired are left out.
"""

from importlib import import_module

from pyramid.config import Configurator
from pyramid.events import NewRequest, NewResponse

from ...security.policy import OPERATE, PUBLIC
from ...views.guard import add_guarded_view, add_view_of_route
from . import sign_in
from .rendering import Browser, problem_page, set_up_templates, static
from .responses import add_security_headers, answered, trust_scheme
from .sessions import session_caller

# By optional module: the pages of its routes. Those of the empty name have routes of their own. A
# page is the function with the name of its module, which may need that optional module.
PAGES = {
    "": ["today"],
    "operate": ["flows", "flow"],
    "history": ["runs", "run", "beats"],
}


def includeme(config: Configurator) -> None:
    """Add the pages, the sign-in, and the headers of all replies below the path."""
    # Here, since the engine imports this module before it has that name.
    from ... import OPTIONAL

    registry = config.registry
    registry["heartbeat.session_caller"] = session_caller
    registry["heartbeat.problem_page"] = problem_page
    registry["heartbeat.pages"] = set[str]()
    set_up_templates(config)
    config.add_subscriber(trust_scheme, NewRequest)
    config.add_subscriber(add_security_headers, NewResponse)
    config.add_view_predicate("heartbeat_browser", Browser)
    add_guarded_view(config, sign_in.sign_in, "/sign-in", PUBLIC, ("GET", "POST"))
    add_guarded_view(config, sign_in.sign_out, "/sign-out", OPERATE, ("POST",))
    add_guarded_view(config, static, "/static/{digest}/{file}", PUBLIC, ("GET",))
    for module, pages in PAGES.items():
        if module and module not in OPTIONAL:
            continue
        for name in pages:
            view = answered(getattr(import_module(f".{name}", __package__), name))
            registry["heartbeat.pages"].add(name)
            if module:
                get = {"request_method": "GET", "heartbeat_browser": True}
                add_view_of_route(config, view, OPERATE, ("GET",), **get)
            else:
                add_guarded_view(config, view, f"/{name}", OPERATE, ("GET",))
    if "operate" in OPTIONAL:
        from ..operate.bulk import pause_of_everything
        from .actions import act

        registry["heartbeat.pause_of_everything"] = pause_of_everything
        if "rehearse" in OPTIONAL:
            from .rehearsal import rehearsal

            registry["heartbeat.rehearsal"] = rehearsal
            registry["heartbeat.pages"].add("rehearsal")
        add_guarded_view(config, answered(act), "/act", OPERATE, ("POST",))

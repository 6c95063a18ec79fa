"""The engine's routes, all below the setting `heartbeat.path`, and a check for conflicts."""

from typing import Any

from pyramid.config import Configurator
from pyramid.interfaces import IRequestFactory, IRoutesMapper
from pyramid.predicates import RequestMethodPredicate
from pyramid.request import Request

from .errors import InclusionError

# Any values of the placeholders of our patterns.
_SAMPLE = {"name": "x", "id": "1", "rest": ("x",)}


class Root:
    """The context of the engine's views, instead of the one of the application's root factory."""

    def __init__(self, _request: Request) -> None:
        pass


# This is `request.heartbeat`.
HEARTBEAT = property(lambda request: request.registry["heartbeat"])


def require_same_place(config: Configurator) -> None:
    """Raise InclusionError if the engine is included again, below another route prefix."""
    place = _prefix_of(config)
    if place != config.registry["heartbeat.place"]:
        raise InclusionError(
            f"the engine is included below {config.registry['heartbeat.place']} already, and now "
            f"below {place}: include it once"
        )


def is_below(request: Request) -> bool:
    """Return whether a request is for the path or below it, even if its path is not valid UTF-8."""
    mapper = request.registry.getUtility(IRoutesMapper)
    path = request.environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
    return any(
        route is not None and route.match(path) is not None
        for route in map(mapper.get_route, ("heartbeat.beat", "heartbeat.unknown"))
    )


def includeme(config: Configurator) -> None:
    """Add `request.heartbeat`, and a check that the complete application hides no route of ours."""
    config.registry["heartbeat.place"] = _prefix_of(config)
    config.add_request_method(HEARTBEAT, "heartbeat", property=True)
    # After all routes and request methods, whatever their order.
    config.action(None, _check, args=(config,), order=1_000_000)


def _prefix_of(config: Configurator) -> str:
    return f"/{(config.route_prefix or '').strip('/')}"


def _check(config: Configurator) -> None:
    """Raise InclusionError, with the place, for a part of the application that hides ours."""
    own = config.introspector.get("request extensions", "heartbeat")
    if own and own["callable"] is not HEARTBEAT:
        raise InclusionError(f"{_place(own)}: request.heartbeat is the engine's: rename yours")
    if hasattr(factory := config.registry.queryUtility(IRequestFactory), "heartbeat"):
        raise InclusionError(f"{factory}: request.heartbeat is the engine's: rename yours")
    earlier: list[Any] = []
    for route in config.registry.getUtility(IRoutesMapper).get_routes():
        if not route.name.startswith("heartbeat."):
            earlier.append(route)
            continue
        for other in earlier:
            if path := _hidden_path(route, other):
                added = _place(config.introspector.get("routes", other.name))
                raise InclusionError(
                    f"{added}: the route {other.name!r} ({other.pattern}) hides the engine's "
                    f'{path}: call config.include("{__package__}") before you add it'
                )


def _hidden_path(route: Any, other: Any) -> str | None:
    """Return a path of our `route` that `other`, an earlier route, matches; None if it has none."""
    request = Request.blank("/", method="POST" if route.name == "heartbeat.beat" else "GET")
    try:
        path: str = route.generate(_SAMPLE)
    except KeyError:  # of the application's route_prefix, whose placeholders may be anything
        return None
    # Predicates other than the method depend on a real request.
    hides = other.match(path) is not None and all(
        isinstance(predicate, RequestMethodPredicate) and predicate(None, request)
        for predicate in other.predicates
    )
    return path if hides else None


def _place(introspectable: Any) -> str:
    info = introspectable and introspectable.action_info
    return f"{info.file}, line {info.line}" if info else "the application"

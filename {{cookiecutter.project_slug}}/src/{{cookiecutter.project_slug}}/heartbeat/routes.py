"""The engine's routes, all below the setting `heartbeat.path`."""

from pyramid.config import Configurator


def includeme(config: Configurator) -> None:
    """Add the routes. Their views guard themselves: see `security/policy.py`."""
    path = config.registry["heartbeat"].settings.path
    config.add_route("heartbeat.beat", path)
    # The last one: whatever else is asked for below the path.
    config.add_route("heartbeat.unknown", f"{path}/*rest")

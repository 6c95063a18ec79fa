"""Optional: limits refused attempts. Calls with a valid token are never counted."""

import logging
import math
import time
from ipaddress import IPv6Address, IPv6Network

from pyramid.config import Configurator

from ..security.addresses import Address

REFUSED_A_MINUTE = 20

log = logging.getLogger(__name__)


def includeme(config: Configurator) -> None:
    """Add the function that the guard calls after each refusal."""
    try:
        from limits import RateLimitItemPerMinute
        from limits.storage import MemoryStorage
        from limits.strategies import MovingWindowRateLimiter
    except ModuleNotFoundError:
        log.warning("refused attempts are not limited: the package limits is not installed")
        return
    limit = RateLimitItemPerMinute(REFUSED_A_MINUTE)
    limiter = MovingWindowRateLimiter(MemoryStorage())

    def seconds_to_wait(address: Address | None) -> int | None:
        """Count a refused attempt; return None up to the limit, then the seconds to wait."""
        key = _key(address)
        if limiter.hit(limit, key):
            return None
        reset = limiter.get_window_stats(limit, key).reset_time
        return max(1, math.ceil(reset - time.time()))

    config.registry["heartbeat.throttle"] = seconds_to_wait


def _key(address: Address | None) -> str:
    """Return the key of a limit: for IPv6 the /64 network, which belongs to one customer."""
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False))
    return str(address)

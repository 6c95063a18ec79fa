"""Optional: slows down who guesses tokens. Calls with a valid one are never counted."""

import logging
import math
import time
from ipaddress import IPv6Address, IPv6Network

from pyramid.config import Configurator

from ..security.addresses import Address

REFUSED_A_MINUTE = 20

log = logging.getLogger(__name__)


def includeme(config: Configurator) -> None:
    """Let the guard ask, after each refusal, how long that address has to wait."""
    try:
        from limits import RateLimitItemPerMinute
        from limits.storage import MemoryStorage
        from limits.strategies import MovingWindowRateLimiter
    except ModuleNotFoundError:
        log.warning("guesses of tokens are not slowed down: the package limits is not installed")
        return
    limit = RateLimitItemPerMinute(REFUSED_A_MINUTE)
    limiter = MovingWindowRateLimiter(MemoryStorage())

    def seconds_to_wait(address: Address | None) -> int | None:
        """Count a refused call; return None up to the limit, then the seconds until a next one."""
        key = _key(address)
        if limiter.hit(limit, key):
            return None
        reset = limiter.get_window_stats(limit, key).reset_time
        return max(1, math.ceil(reset - time.time()))

    config.registry["heartbeat.throttle"] = seconds_to_wait


def _key(address: Address | None) -> str:
    """Return what is counted together: all of a /64, which is what one IPv6 customer has."""
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False))
    return str(address)

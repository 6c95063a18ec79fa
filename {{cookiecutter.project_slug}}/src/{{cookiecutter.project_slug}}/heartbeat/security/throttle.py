"""Optional: slows down who guesses tokens. Calls with a valid one are never counted."""

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from pyramid.config import Configurator

REFUSED_A_MINUTE = RateLimitItemPerMinute(20)


def includeme(config: Configurator) -> None:
    """Let the guard ask, after each refusal, how long that address has to wait."""
    limiter = MovingWindowRateLimiter(MemoryStorage())

    def seconds_to_wait(address: str) -> int | None:
        """Count a refused call; return None up to the limit, then the seconds until a next one."""
        if limiter.hit(REFUSED_A_MINUTE, address):
            return None
        reset = limiter.get_window_stats(REFUSED_A_MINUTE, address).reset_time
        return max(1, math.ceil(reset - time.time()))

    config.registry["heartbeat.throttle"] = seconds_to_wait

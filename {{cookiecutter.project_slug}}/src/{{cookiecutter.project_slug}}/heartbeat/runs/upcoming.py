"""Waits for a slot that comes shortly after a beat, so that it does not wait for the next beat.

No run starts before its slot. The beat does not wait if the rhythm of the beats shows that another
one comes before the slot.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise

from sqlalchemy import select

from ..core import Heartbeat
from ..db.stored import readable
from ..models import DataFlowBeat
from .due import Look

# How many gaps between the last beats, of all processes, show their rhythm.
GAPS = 5
# The seconds after which a waiting beat notices that the process stops.
SLICE = 0.1
# By id, since the clock may have been set back between them.
_LAST_BEATS = select(DataFlowBeat.received_at).order_by(DataFlowBeat.id.desc()).limit(GAPS + 1)


def seconds_to_slot(heartbeat: Heartbeat, found: Look | None) -> float:
    """Return the seconds until the next slot; without limit if none comes, or if it has come."""
    slot = found and found.next_slot
    seconds = (slot - heartbeat.clock.now()).total_seconds() if slot else 0
    return seconds if seconds > 0 else threading.TIMEOUT_MAX


def wait_for_slot(
    heartbeat: Heartbeat, slot: datetime, deadline: float, on_wait: Callable[[], None]
) -> bool:
    """Wait for `slot` unless another beat will run it in time; return whether it has come.

    A slot after `deadline`, a monotonic time, is not waited for. `on_wait` is called before the
    wait, which holds no connection. In each process, one beat waits at a time.
    """
    if not heartbeat.waiting_for_slot.acquire(blocking=False):
        return False
    try:
        if _is_worth_waiting(heartbeat, slot, deadline):
            on_wait()
            return _sleep_until(heartbeat, slot, deadline)
        return False
    finally:
        heartbeat.waiting_for_slot.release()


def another_beat_comes(beats: Sequence[datetime], slot: datetime, now: datetime) -> bool:
    """Return whether the last `beats` suggest that another one comes before `slot`.

    It is expected after their largest gap, and at least two gaps are needed, so that an irregular
    scheduler is not trusted.
    """
    times = sorted(beats)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    return len(gaps) > 1 and now <= times[-1] + max(gaps) < slot


def _is_worth_waiting(heartbeat: Heartbeat, slot: datetime, deadline: float) -> bool:
    now, seconds = heartbeat.clock.now(), deadline - heartbeat.clock.monotonic()
    if heartbeat.executor.stopped or (slot - now).total_seconds() >= seconds:
        return False
    with heartbeat.session() as session:
        beats = [beat for beat in session.scalars(_LAST_BEATS) if readable(beat)]
    return not another_beat_comes(beats, slot, now)


def _sleep_until(heartbeat: Heartbeat, slot: datetime, deadline: float) -> bool:
    """Sleep in slices until the slot comes, the process stops or the deadline passes."""
    clock = heartbeat.clock
    while (left := (slot - clock.now()).total_seconds()) > 0:
        left = min(left, deadline - clock.monotonic())
        if left <= 0 or heartbeat.executor.stopped:
            return False
        clock.sleep(min(left, SLICE))
    return True

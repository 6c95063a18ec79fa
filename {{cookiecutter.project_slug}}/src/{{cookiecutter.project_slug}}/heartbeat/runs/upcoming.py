"""Waiting for a slot that a beat comes a moment too early for, so that it is not lost.

Nothing starts before its slot. The beat waits for it unless the rhythm of the beats shows that
another one comes before it.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise

from sqlalchemy import select

from ..core import Heartbeat
from ..db.stored import readable
from ..models import DataFlowBeat

# How many gaps between the last beats of all processes show their rhythm.
GAPS = 5
# How soon a waiting beat notices that the process stops, in seconds.
SLICE = 0.1
# By id: the order in which they came, also where the clock was set back between them.
_LAST_BEATS = select(DataFlowBeat.received_at).order_by(DataFlowBeat.id.desc()).limit(GAPS + 1)


def wait_for_slot(
    heartbeat: Heartbeat, slot: datetime, deadline: float, on_wait: Callable[[], None]
) -> bool:
    """Wait for `slot` unless another beat will run it in time; return whether it has come.

    `deadline` is monotonic: only a slot before it is waited for. `on_wait` is called before the
    wait, during which nothing of the database is held. One beat of a process waits at a time.
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

    Counted with their largest gap, and never from two beats alone, so that an irregular scheduler
    is not trusted.
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

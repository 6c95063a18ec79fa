"""A thread that delivers messages: bounded, in order for each receiver, and in nobody's way."""

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from .delivery import DeliveryError, deliver

# The messages that wait for a receiver; with more, the oldest is dropped.
MAX_WAITING = 100
# The pauses before the next attempts at a message, in seconds.
PAUSES = (0.5, 2.0, 10.0, 60.0)
# How long the end of the process waits for the messages that are left.
FLUSH_SECONDS = 1.5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Message:
    """A message. It holds a secret URL, which its text does not show."""

    url: str = field(repr=False)
    body: bytes
    content_type: str


@dataclass(eq=False)
class _Receiver:
    """The messages for a receiver. `name` is the setting or the option that has its URL."""

    name: str
    waiting: deque[Message] = field(default_factory=deque)
    attempts: int = 0
    ready_at: float = 0.0
    is_down: bool = False


class Sender:
    """Delivers messages on a thread of its own, which starts with the first one."""

    def __init__(self) -> None:
        self._receivers: dict[str, _Receiver] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def send(self, name: str, message: Message) -> None:
        """Add a message for the receiver of this name."""
        with self._changed:
            receiver = self._receivers.setdefault(name, _Receiver(name))
            receiver.waiting.append(message)
            if len(receiver.waiting) > MAX_WAITING:
                receiver.waiting.popleft()
                receiver.attempts = 0
                _report(receiver, f"does not keep up: only its last {MAX_WAITING} messages wait")
            if self._thread is None or not self._thread.is_alive():  # as after a fork
                self._thread = threading.Thread(
                    target=self._work, name="heartbeat-sender", daemon=True
                )
                self._thread.start()
            if len(receiver.waiting) == 1:  # a thread that waits would only wait again
                self._changed.notify_all()

    def flush(self) -> bool:
        """Wait until nothing is left to deliver, but no longer than FLUSH_SECONDS.

        Return whether nothing is left.
        """
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                return not self._waiting()
            return self._changed.wait_for(lambda: not self._waiting(), FLUSH_SECONDS)

    def _waiting(self) -> list[_Receiver]:
        return [receiver for receiver in self._receivers.values() if receiver.waiting]

    def _work(self) -> None:
        while True:
            receiver, message = self._next()
            try:
                deliver(message.url, message.body, message.content_type)
            except DeliveryError as error:
                self._retry(receiver, message, error)
            except Exception as error:  # noqa: BLE001 - the next message may fare better
                problem = DeliveryError(type(error).__name__, is_final=True)
                self._retry(receiver, message, problem)
            else:
                receiver.is_down = False
                self._end(receiver, message)

    def _next(self) -> tuple[_Receiver, Message]:
        """Wait for a message whose time has come; of several receivers, the turn goes round."""
        with self._changed:
            while True:
                waiting = self._waiting()
                first = min(waiting, key=lambda each: each.ready_at, default=None)
                seconds = first.ready_at - time.monotonic() if first else None
                if first and seconds is not None and seconds <= 0:
                    return first, first.waiting[0]
                self._changed.wait(seconds)

    def _retry(self, receiver: _Receiver, message: Message, error: DeliveryError) -> None:
        if error.is_final or receiver.attempts == len(PAUSES):
            _report(receiver, f"did not accept a message: {error}")
            self._end(receiver, message)
            return
        with self._changed:
            receiver.ready_at = time.monotonic() + PAUSES[receiver.attempts]
            receiver.attempts += 1

    def _end(self, receiver: _Receiver, message: Message) -> None:
        with self._changed:
            # It may have been dropped meanwhile.
            if receiver.waiting and receiver.waiting[0] is message:
                receiver.waiting.popleft()
            receiver.attempts, receiver.ready_at = 0, time.monotonic()
            self._changed.notify_all()


def _report(receiver: _Receiver, problem: str) -> None:
    """Log a problem once until the receiver accepts a message again."""
    if not receiver.is_down:
        receiver.is_down = True
        log.warning("the receiver of %s %s", receiver.name, problem)

"""Closes a connection whose server does not answer in time, so that no thread waits for ever."""

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary, finalize

from sqlalchemy.engine import ExceptionContext

# The interval between two checks of the deadlines, in seconds.
LOOK_EVERY = 0.25

log = logging.getLogger(__name__)
_thread_limit = threading.local()


class Watch:
    """The connections of this process that wait for an answer, with their deadlines.

    One thread checks them. If the system refuses that thread, the next statement tries again.
    """

    def __init__(self) -> None:
        # By connection, a duplicate of its socket: the driver may close its own at any time, and
        # another file may then have the same number.
        self._duplicates = WeakKeyDictionary[Any, socket.socket]()
        self._deadlines: dict[socket.socket, float] = {}
        # By connection that is being set up, its deadline and its thread. The entry of a set-up
        # that fails is removed with the connection.
        self._set_ups = WeakKeyDictionary[Any, tuple[float, int]]()
        self._changing = threading.Lock()
        self._any = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, seconds: float, connection: Any, *_ignored: object) -> None:
        """Watch a new connection, and limit its set-up until `set_up_ended` is called.

        A connection without a socket is not watched.
        """
        own = getattr(connection, "_sock", connection)  # PyMySQL has no public name for it
        with suppress(AttributeError, OSError):
            duplicate = socket.socket(fileno=os.dup(own.fileno()))
            finalize(connection, duplicate.close).atexit = False
            self._duplicates[connection] = duplicate
            with self._changing:
                self._set_ups[connection] = time.monotonic() + seconds, threading.get_ident()
                self._wake_up()

    def set_up_ended(self, connection: Any, *_ignored: object) -> None:
        """Remove the limit of a connection's set-up."""
        with self._changing:
            self._set_ups.pop(connection, None)

    def explain(self, context: ExceptionContext) -> None:
        """Add the reason to the error of a connection that was closed while it was set up."""
        mine = math.inf, threading.get_ident()
        with self._changing:
            given_up = [each for each, set_up in self._set_ups.items() if set_up == mine]
            for connection in given_up:
                del self._set_ups[connection]
        if given_up:
            context.original_exception.add_note("the database has not answered a new connection")

    def remove(self, connection: Any, *_ignored: object) -> None:
        """Forget a connection that is about to be closed."""
        if duplicate := self._duplicates.pop(connection, None):
            duplicate.close()

    def socket_of(self, connection: Any) -> socket.socket | None:
        """Return the socket by which a connection is watched, if it has one."""
        return self._duplicates.get(connection)

    def shut_down(self, connection: Any) -> None:
        """Interrupt any thread that uses a connection, which is unusable afterwards."""
        if its_socket := self.socket_of(connection):
            _shut_down(its_socket)

    @contextmanager
    def limit(self, its_socket: socket.socket, seconds: float) -> Iterator[None]:
        """Shut a connection's socket down if the block takes longer than `seconds`."""
        with self._changing:
            self._deadlines[its_socket] = time.monotonic() + seconds
            self._wake_up()
        try:
            yield
        except Exception as error:
            if self._deadlines[its_socket] == math.inf:
                error.add_note(f"the database has not answered for {seconds:g} s")
            raise
        finally:
            with self._changing:
                del self._deadlines[its_socket]

    def _wake_up(self) -> None:
        self._any.set()
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._look, name="heartbeat-watch", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._thread = None
            log.warning("connections that wait too long cannot be closed yet: %s", error)

    def _look(self) -> None:
        while True:
            self._any.wait()
            time.sleep(LOOK_EVERY)
            with self._changing:
                late = self._give_up(time.monotonic())
            if late:
                log.error("the database does not answer: closed %d connections", late)

    def _give_up(self, now: float) -> int:
        """Shut late connections down, whose threads get an error; return how many there were."""
        late = [each for each, until in self._deadlines.items() if until < now]
        for its_socket in late:
            self._deadlines[its_socket] = math.inf  # shows the reason to its thread
            _shut_down(its_socket)
        late_set_ups = [each for each, (until, _) in self._set_ups.items() if until < now]
        for connection in late_set_ups:
            self._set_ups[connection] = math.inf, self._set_ups[connection][1]
            self.shut_down(connection)
        if not self._deadlines and all(until == math.inf for until, _ in self._set_ups.values()):
            self._any.clear()
        return len(late) + len(late_set_ups)


def _shut_down(its_socket: socket.socket) -> None:
    with suppress(OSError):
        its_socket.shutdown(socket.SHUT_RDWR)


watch = Watch()
# A child of a fork has none of the threads.
os.register_at_fork(after_in_child=watch.__init__)  # type: ignore[misc]


@contextmanager
def answer_within(seconds: float) -> Iterator[None]:
    """Limit how long this thread waits for each answer of a server within the block."""
    before = getattr(_thread_limit, "seconds", math.inf)
    _thread_limit.seconds = min(seconds, before)
    try:
        yield
    finally:
        _thread_limit.seconds = before


def watched(call: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Return a dialect's method with a limit. Its first argument is a connection or a cursor."""

    @wraps(call)
    def limited(subject: Any, *arguments: Any, **options: Any) -> Any:
        limit = min(seconds, getattr(_thread_limit, "seconds", math.inf))
        connection = getattr(subject, "dbapi_connection", None)  # of the pool's
        its_socket = watch.socket_of(connection or getattr(subject, "connection", subject))
        if limit == math.inf or its_socket is None:
            return call(subject, *arguments, **options)
        with watch.limit(its_socket, limit):
            return call(subject, *arguments, **options)

    return limited

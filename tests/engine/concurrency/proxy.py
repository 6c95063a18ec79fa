"""A TCP proxy in front of a database server. It can go silent, be slow, or lose an answer.

Silent means: nothing is forwarded any more, nothing is closed, and no error is reported. To both
ends it looks like a cable that was cut.
"""

import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto

CHUNK = 65_536
END = re.compile(rb"\b(?:COMMIT|ROLLBACK)\b(?! TO)")


class Fault(Enum):
    """What happens to a connection at the moment that a trap is set for."""

    SILENT = auto()  # the data just sent does not arrive, nor does anything later
    LOSE_ANSWER = auto()  # the data just sent arrives, then the connection is reset
    LOSE_ANSWER_SILENTLY = auto()  # the data just sent arrives, and no answer comes back
    DELAY = auto()  # the data just sent arrives late


@dataclass
class Trap:
    """Waits for a commit (or `at`) of a transaction that has sent `after`, on any connection.

    It passes on the first `skips` of them, and catches the next `times`.
    """

    after: bytes
    fault: Fault
    at: bytes = rb"\bCOMMIT\b"
    times: int = 1
    skips: int = 0
    seconds: float = 0.0
    sprung: threading.Event = field(default_factory=threading.Event)

    def catches(self, sent: bytes, chunk: bytes) -> bool:
        """Return whether this is the moment, and count it."""
        if not (self.times and re.search(self.at, chunk) and re.search(self.after, sent)):
            return False
        if self.skips:
            self.skips -= 1
            return False
        self.times -= 1
        return True


class Proxy:
    """Forwards from a port of its own to a server, except for the faults that are set.

    silent: nothing is forwarded, on old connections or new ones. delay: answers come so many
    seconds late. refuses: new connections are closed at once.
    """

    def __init__(self, host: str, port: int) -> None:
        self.server = host, port
        self.traps: list[Trap] = []
        self.silent = self.refuses = False
        self.delay = 0.0
        self.lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def trap(self, after: bytes, fault: Fault, **options: object) -> Trap:
        """Set a trap; return it."""
        trap = Trap(after, fault, **options)  # type: ignore[arg-type]
        self.traps.append(trap)
        return trap

    def sprung(self, sent: bytes, chunk: bytes) -> Trap | None:
        """Return the trap that catches what a connection sends, if one does."""
        with self.lock:
            return next((trap for trap in self.traps if trap.catches(sent, chunk)), None)

    def heal(self) -> None:
        """Forward as usual, and remove the traps. What a trap has made silent stays silent.

        The connections that have lost something while the whole proxy was silent are reset, as TCP
        does when it has waited long enough.
        """
        with self.lock:
            self.silent, self.refuses, self.delay, self.traps = False, False, 0.0, []
            lost = [each for each in self._connections if each.has_lost]
            self._connections = [each for each in self._connections if not each.has_ended]
        for each in lost:
            each.reset()

    def refuse(self) -> None:
        """Reset all connections, and refuse new ones, as a server does that ends."""
        with self.lock:
            self.refuses = True
            present, self._connections = self._connections, []
        for each in present:
            each.reset()

    def close(self) -> None:
        """End all connections, and take no more."""
        with_shutdown(self._listener)
        with self.lock:
            for each in self._connections:
                each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                upstream = socket.create_connection(self.server)
            except OSError:  # the server is down
                client.close()
                continue
            for each in (client, upstream):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self._connections.append(_Connection(self, client, upstream))
                if self.refuses:
                    self._connections.pop().close()


class _Connection:
    """One client of the proxy."""

    def __init__(self, proxy: Proxy, client: socket.socket, upstream: socket.socket) -> None:
        self.proxy, self.client, self.upstream = proxy, client, upstream
        self.silent = self.has_lost = self.has_ended = False
        self.loses: Fault | None = None
        self.sent = b""
        pumps: tuple[tuple[Callable[[bytes], bytes | None], socket.socket, socket.socket], ...] = (
            (self.request, client, upstream),
            (self.answer, upstream, client),
        )
        for pump in pumps:
            threading.Thread(target=self.pump, args=pump, daemon=True).start()

    def pump(
        self,
        passed: Callable[[bytes], bytes | None],
        source: socket.socket,
        sink: socket.socket,
    ) -> None:
        while True:
            try:
                chunk = source.recv(CHUNK)
            except OSError:
                chunk = b""
            # What was lost is missing in the stream: nothing may follow it later.
            self.has_lost |= self.proxy.silent
            if self.silent or self.has_lost:
                if not chunk:  # the other end learns nothing of it
                    return
                continue
            if not chunk:
                self.has_ended = True
                with_shutdown(sink)
                return
            forwarded = passed(chunk)
            if forwarded:
                try:
                    sink.sendall(forwarded)
                except OSError:
                    return

    def request(self, chunk: bytes) -> bytes | None:
        """Return the part of the client's data to forward."""
        self.sent += chunk
        trap = self.proxy.sprung(self.sent, chunk)
        if END.search(chunk):
            self.sent = b""
        if trap is None:
            return chunk
        if trap.fault is Fault.SILENT:
            self.silent = True
        elif trap.fault is Fault.DELAY:
            time.sleep(trap.seconds)
        else:
            self.loses = trap.fault
        trap.sprung.set()
        return None if trap.fault is Fault.SILENT else chunk

    def answer(self, chunk: bytes) -> bytes | None:
        """Return the part of the server's answer to forward."""
        if self.loses is None:
            time.sleep(self.proxy.delay)
            return chunk
        if self.loses is Fault.LOSE_ANSWER:
            self.reset()
        else:
            self.silent = True
        return None

    def reset(self) -> None:
        """End the connection so that the client gets a reset."""
        with suppress(OSError):  # it may have ended by itself
            # Closing with no time to linger sends a reset.
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.client.shutdown(socket.SHUT_RD)  # wakes the thread that reads from it
            self.client.close()
        self.close()

    def close(self) -> None:
        """End the connection on both sides."""
        self.has_ended = True
        for each in (self.client, self.upstream):
            with_shutdown(each)


def with_shutdown(end: socket.socket) -> None:
    """Close a socket, also for the thread that reads from it."""
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()

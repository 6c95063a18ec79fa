"""A local server that stands in for the receivers of pings and of the webhook."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

SECONDS = 30
# A part of a URL that nothing may show.
SECRET = "S3cret-of-the-receiver"  # noqa: S105 - of a test


class Received(NamedTuple):
    """A request."""

    path: str
    rid: str
    body: str
    content_type: str
    authorization: str | None

    def json(self) -> dict[str, Any]:
        """Return the members of the body."""
        members: dict[str, Any] = json.loads(self.body)
        return members


class Receiver:
    """Keeps all requests. Each is answered by `reply`, which may block."""

    def __init__(self, port: int) -> None:
        self.requests: list[Received] = []
        self.reply: Callable[[Received], tuple[int, dict[str, str]]] = lambda _request: (200, {})
        self._changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                target = urlsplit(self.path)
                received = Received(
                    target.path,
                    parse_qs(target.query).get("rid", [""])[0],
                    self.rfile.read(length).decode(),
                    self.headers.get("Content-Type", ""),
                    self.headers.get("Authorization"),
                )
                receiver.keep(received)
                status, headers = receiver.reply(received)
                with suppress(OSError):  # the sender may have given up
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()

            def log_message(self, *_ignored: object) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self.server.server_port}"
        self.url = f"{self.origin}/{SECRET}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def keep(self, received: Received) -> None:
        """Keep a request."""
        with self._changed:
            self.requests.append(received)
            self._changed.notify_all()

    def wait_for(self, count: int) -> list[Received]:
        """Wait until `count` requests have come; return all."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self.requests) >= count, SECONDS)
            assert came, f"{len(self.requests)} of {count} requests came: {self.requests}"
            return [*self.requests]

    def kinds(self, count: int) -> list[str]:
        """Wait for requests; return the last part of the path of each: the kinds of pings."""
        paths = [request.path.removeprefix(f"/{SECRET}") for request in self.wait_for(count)]
        return [path.removeprefix("/") or "success" for path in paths]

    def states(self, count: int) -> list[tuple[str, str]]:
        """Wait for messages of the webhook; return the flow and the event of each."""
        found = [request.json() for request in self.wait_for(count)]
        return [(members["flow"], members["event"]) for members in found]


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """Make a receiver, and end it."""
    receiver = Receiver(port)
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


@contextmanager
def speaking(speak: Callable[[socket.socket], None]) -> Iterator[str]:
    """Make a receiver that accepts a connection and answers by `speak`; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        speak(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/{SECRET}"
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

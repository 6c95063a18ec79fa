"""One HTTP request to a receiver, limited in time as a whole."""

import io
import socket
import ssl
import time
from base64 import b64encode
from functools import cache
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

# The limit for a delivery: connection, request, redirects and the beginning of the reply.
SECONDS = 10.0
MAX_REDIRECTS = 3
PORTS = {"http": 80, "https": 443}
LATER = {HTTPStatus.TOO_MANY_REQUESTS}


class DeliveryError(Exception):
    """A message was not accepted. The text is for logs: it never contains a URL."""

    def __init__(self, reason: str, *, is_final: bool) -> None:
        super().__init__(reason)
        self.is_final = is_final


def deliver(url: str, body: bytes, content_type: str, seconds: float = SECONDS) -> None:
    """Send a POST request. Raises DeliveryError if it is not accepted within `seconds`.

    The reply's body is not read. Redirects are followed within the same server.
    """
    deadline = time.monotonic() + seconds
    target, headers = urlsplit(url), {"Content-Type": content_type}
    for _ in range(MAX_REDIRECTS + 1):
        try:
            status, location = _send(target, body, headers, deadline)
        except (OSError, HTTPException) as error:
            raise DeliveryError(_reason(error, seconds), is_final=False) from None
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return
        if not location or status >= HTTPStatus.BAD_REQUEST:
            may_pass = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in LATER
            raise DeliveryError(f"it answered {status}", is_final=not may_pass)
        target = _redirected(target, location)
    raise DeliveryError("it redirects in a circle", is_final=True)


def _send(
    target: SplitResult, body: bytes, headers: dict[str, str], deadline: float
) -> tuple[int, str | None]:
    """Send the request; return the status and the location of the reply."""
    scheme, host, port = _origin(target)
    connection = HTTPConnection(host, port)
    sock = _connect(host, port, deadline)
    try:
        if scheme == "https":
            sock.settimeout(_left(deadline))  # for the handshake as a whole
            sock = _tls().wrap_socket(sock, server_hostname=host)
        limited: Any = _Limited(sock, deadline)
        connection.sock = limited
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        connection.request("POST", path, body, {**headers, **_authorization(target)})
        reply = connection.getresponse()
        return reply.status, reply.getheader("Location")
    finally:
        sock.close()


def _redirected(target: SplitResult, location: str) -> SplitResult:
    """Return the target of a redirect. Raises DeliveryError unless it is on the same server."""
    try:
        redirected = urlsplit(urljoin(target.geturl(), location))
        is_here = location.isascii() and _origin(redirected) == _origin(target)
    except ValueError:  # an invalid address or port
        is_here = False
    if not is_here:
        raise DeliveryError("it redirects to another server: refused", is_final=True)
    return redirected._replace(netloc=target.netloc)


def _origin(target: SplitResult) -> tuple[str, str, int]:
    return target.scheme, target.hostname or "", target.port or PORTS.get(target.scheme, 0)


def _authorization(target: SplitResult) -> dict[str, str]:
    if target.username is None:
        return {}
    userinfo = f"{unquote(target.username)}:{unquote(target.password or '')}".encode()
    return {"Authorization": f"Basic {b64encode(userinfo).decode()}"}


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Connect to the first address that answers; each gets its share of the time."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failed: OSError = TimeoutError()
    for number, (family, kind, protocol, _name, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left(deadline) / (len(addresses) - number))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failed = error
        else:
            return sock
    raise failed


class _Limited(io.RawIOBase):
    """A socket for HTTPConnection, all of whose operations together end at a deadline.

    The timeout of a socket is one for each read: a receiver could send a byte now and then.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock, self.deadline = sock, deadline

    def sendall(self, data: bytes) -> None:
        """Send all of the data."""
        self.sock.settimeout(_left(self.deadline))
        self.sock.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return a file to read the reply from."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what has arrived."""
        self.sock.settimeout(_left(self.deadline))
        return self.sock.recv_into(buffer)


def _left(deadline: float) -> float:
    """Return the seconds until the deadline. Raises TimeoutError if there are none."""
    if (seconds := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    return seconds


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _reason(error: Exception, seconds: float) -> str:
    """Return why a delivery failed, in words that contain no part of the URL."""
    if isinstance(error, TimeoutError):
        return f"no answer within {seconds:g} s"
    # Other texts of TLS errors name the host.
    is_tls = isinstance(error, ssl.SSLError)
    detail = getattr(error, "reason" if is_tls else "strerror", None)
    return f"{type(error).__name__}: {detail}" if detail else type(error).__name__

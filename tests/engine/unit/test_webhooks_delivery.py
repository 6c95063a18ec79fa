"""One delivery: limited in time as a whole, whatever the receiver does."""

import itertools
import socket
import ssl
import time
from collections.abc import Callable

import pytest

from data_flows.heartbeat.optional.webhooks.delivery import DeliveryError, deliver

from ..receiver import SECRET, Receiver, speaking

TEXT = "text/plain"


def be_silent(connection: socket.socket) -> None:
    """Accept, and never answer."""
    while connection.recv(1_000):
        pass


def dribble(connection: socket.socket) -> None:
    """Send a byte of the status line now and then."""
    for byte in itertools.chain(b"HTTP/1.1 200 O", itertools.repeat(ord("O"))):
        connection.sendall(bytes([byte]))
        time.sleep(0.02)


def repeat_a_header(connection: socket.socket) -> None:
    """Never end the headers."""
    connection.sendall(b"HTTP/1.1 100 Continue\r\n")
    for _ in itertools.count():
        connection.sendall(b"\r\nHTTP/1.1 100 Continue\r\n")
        time.sleep(0.001)


@pytest.mark.parametrize("speak", [be_silent, dribble, repeat_a_header])
def test_a_receiver_without_a_reply_is_cut_off(speak: Callable[[socket.socket], None]) -> None:
    with speaking(speak) as url, pytest.raises(DeliveryError) as caught:
        deliver(url, b"", TEXT, seconds=0.5)

    assert str(caught.value) == "no answer within 0.5 s"
    assert not caught.value.is_final


def test_the_body_of_a_reply_is_not_waited_for() -> None:
    def never_end(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"more " * 10_000)

    with speaking(never_end) as url:
        deliver(url, b"", TEXT)


def test_what_is_not_http_is_an_error_that_may_pass() -> None:
    with (
        speaking(lambda connection: connection.sendall(b"220 mail.example.org\r\n")) as url,
        pytest.raises(DeliveryError, match=r"^BadStatusLine$") as caught,
    ):
        deliver(url, b"", TEXT)

    assert not caught.value.is_final


def test_a_certificate_that_is_not_trusted_is_refused_without_the_host(receiver: Receiver) -> None:
    url = receiver.url.replace("http://127.0.0.1", "https://localhost")

    with pytest.raises(DeliveryError, match=r"^SSLError: [A-Z_]+$") as caught:
        deliver(url, b"", TEXT)

    assert "localhost" not in str(caught.value)
    assert issubclass(ssl.SSLError, OSError)


@pytest.mark.parametrize("location", ["//[", "http://127.0.0.1:port/", "\udcff", "https:"])
def test_a_redirect_to_an_invalid_address_is_refused(location: str) -> None:
    def speak(connection: socket.socket) -> None:
        connection.recv(10_000)
        text = f"HTTP/1.1 307 Moved\r\nLocation: {location}\r\n\r\n"
        connection.sendall(text.encode(errors="surrogateescape"))

    with speaking(speak) as url, pytest.raises(DeliveryError) as caught:
        deliver(url, b"", TEXT)

    assert SECRET not in str(caught.value)


def test_a_host_without_an_address_is_an_error_without_its_name() -> None:
    with pytest.raises(DeliveryError, match=r"^gaierror: ") as caught:
        deliver(f"http://{SECRET}.invalid/", b"", TEXT)

    assert SECRET not in str(caught.value)

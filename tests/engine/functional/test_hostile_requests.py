"""Hostile requests, as bytes on a wire, to a real server: nothing runs, breaks or leaks.

Each row is a request and the status that it gets. Rows of `SERVER` are answered by waitress before
the application sees them; a status of 0 stands for a connection that is closed without a word.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from .door import OPERATOR_TOKEN, TOKEN, Door, read_reply, serve

HUNTER = "hunter2-hunter2-hunter2"
BEARER = f"Authorization: Bearer {TOKEN}"
WRONG = f"Authorization: Bearer {HUNTER}"
LARGE = b"x" * 70_000
FORWARDED = "X-Forwarded-For: "


@dataclass(frozen=True)
class Row:
    """A request, and what becomes of it."""

    name: str
    request: bytes
    status: int

    def __str__(self) -> str:
        return self.name


def row(
    name: str,
    status: int,
    *headers: str | bytes,
    line: str = "POST /heartbeat HTTP/1.1",
    body: bytes = b"",
) -> Row:
    """Write a request that asks the server to close the connection afterwards."""
    lines = [line, "Host: localhost", "Connection: close", *headers, "", ""]
    head = b"\r\n".join(
        each if isinstance(each, bytes) else each.encode("latin-1") for each in lines
    )
    return Row(name, head + body, status)


def of(method: str, path: str = "/heartbeat", version: str = "HTTP/1.1") -> str:
    return f"{method} {path} {version}"


CHUNKED = "Transfer-Encoding: chunked"
LARGE_CHUNK = b"11170\r\n" + LARGE + b"\r\n0\r\n\r\n"

# Answered by the application, below its prefix, in any configuration.
APPLICATION = [
    # No token, or not where one is looked for
    row("no token", 401),
    row("an empty authorization", 401, "Authorization:"),
    row("a scheme alone", 401, "Authorization: Bearer"),
    row("a scheme and spaces", 401, "Authorization: Bearer      "),
    row("no scheme", 401, f"Authorization: {TOKEN}"),
    row("another scheme", 401, f"Authorization: Basic {TOKEN}"),
    row("a wrong token", 401, WRONG),
    row("a wrong token of its own header", 401, f"X-Heartbeat-Token: {HUNTER}"),
    row("an empty token of its own header", 401, "X-Heartbeat-Token:"),
    row("undefined", 401, "Authorization: Bearer undefined"),
    row("null", 401, "Authorization: Bearer null"),
    row("the beginning of the token", 401, f"Authorization: Bearer {TOKEN[:-1]}"),
    row("the token and more", 401, f"Authorization: Bearer {TOKEN}x"),
    row("the token in capitals", 401, f"Authorization: Bearer {TOKEN.upper()}"),
    row("the token in quotes", 401, f'Authorization: Bearer "{TOKEN}"'),
    row("the token and its name", 401, f"Authorization: Bearer {TOKEN} cron"),
    row("the token's name", 401, "Authorization: Bearer cron"),
    row("a tab instead of a space", 401, f"Authorization: Bearer\t{TOKEN}"),
    row("a comma list of tokens", 401, f"Authorization: Bearer {HUNTER}, Bearer {TOKEN}"),
    row("the token twice", 401, BEARER, BEARER),
    row("the token and another", 401, BEARER, WRONG),
    row("another and the token", 401, WRONG, BEARER),
    row("its own header twice", 401, *[f"X-Heartbeat-Token: {TOKEN}"] * 2),
    row("a wrong token and a right one elsewhere", 401, WRONG, f"X-Heartbeat-Token: {TOKEN}"),
    row("a header with underscores", 401, f"X_Heartbeat_Token: {TOKEN}"),
    row("a header of a proxy", 401, f"Proxy-Authorization: Bearer {TOKEN}"),
    row("a cookie", 401, f"Cookie: token={TOKEN}; Authorization=Bearer {TOKEN}"),
    row("a cookie of odd bytes", 401, b'Cookie: \xff=\xfe; ="; ;;=;' + TOKEN.encode()),
    row("a form's field", 401, "Content-Length: 39", body=b"token=" + TOKEN.encode()),
    row("a trailer", 401, CHUNKED, body=b"1\r\nx\r\n0\r\n" + BEARER.encode() + b"\r\n\r\n"),
    # Bytes
    row("bytes that are not text", 401, b"Authorization: Bearer \xff\xfe\x80"),
    row("letters beyond ASCII", 401, "Authorization: Bearer schlüssel".encode()),
    row("letters that look like the token's", 401, f"Authorization: Bearer {TOKEN}é".encode()),
    row("a token of 200 kB", 401, "Authorization: Bearer " + HUNTER * 9_000),
    row("250 kB of tabs before a value", 401, "X-A:" + "\t" * 250_000 + "a"),
    row("5000 headers", 401, *[f"X-{number}: {HUNTER}" for number in range(5_000)]),
    row("odd bytes in other headers", 401, b"Host: \xff", b"Accept: \x80", b"User-Agent: \xff"),
    row("no host", 401),
    # In the URL
    row("a token in the query", 401, line=of("POST", f"/heartbeat?token={TOKEN}")),
    row("a wrong token in the query", 401, line=of("POST", f"/heartbeat?token={HUNTER}")),
    row("the token in the query too", 401, BEARER, line=of("POST", f"/heartbeat?a={TOKEN}")),
    row("the token as a name in the query", 401, BEARER, line=of("POST", f"/heartbeat?{TOKEN}")),
    row("in escapes as a name", 401, BEARER, line=of("POST", f"/heartbeat?%61{TOKEN[1:]}=&b")),
    row("in escapes", 401, BEARER, line=of("POST", f"/heartbeat?a=%61{TOKEN[1:]}")),
    row("a name for tokens", 401, BEARER, line=of("POST", "/heartbeat?Access_Token=")),
    row("the operator's token", 401, BEARER, line=of("POST", f"/heartbeat?a={OPERATOR_TOKEN}")),
    row("100000 fields", 401, BEARER, line=of("POST", "/heartbeat?" + "a&" * 100_000)),
    row("userinfo", 401, line=of("POST", f"http://joe:{TOKEN}@localhost/heartbeat")),
    row("another site's absolute address", 401, line=of("POST", "http://evil.test/heartbeat")),
    row("two slashes", 401, line=of("POST", "//heartbeat")),
    row("an escaped letter", 401, line=of("POST", "/%68eartbeat")),
    # Below the path
    row("a slash at the end", 401, line=of("POST", "/heartbeat/")),
    row("a slash at the end with a token", 404, BEARER, line=of("POST", "/heartbeat/")),
    row("nothing there", 401, line=of("GET", "/heartbeat/nothing")),
    row("nothing there with a token", 404, BEARER, line=of("GET", "/heartbeat/nothing")),
    row("an escaped slash", 404, BEARER, line=of("POST", "/heartbeat%2fnothing")),
    row("dots", 404, BEARER, line=of("POST", "/heartbeat/../heartbeat")),
    row("a path of 100 kB", 404, BEARER, line=of("POST", "/heartbeat/" + "x" * 100_000)),
    row("NUL in the path", 404, BEARER, line=of("POST", "/heartbeat/%00")),
    row("a path that is not text", 401, line=of("POST", "/heartbeat/%ff")),
    row("such a path with a token", 400, BEARER, line=of("POST", "/heartbeat/%ff%fe")),
    # Methods
    row("GET", 405, BEARER, line=of("GET")),
    row("HEAD", 405, BEARER, line=of("HEAD")),
    row("PUT", 405, BEARER, line=of("PUT")),
    row("PATCH", 405, BEARER, line=of("PATCH")),
    row("DELETE", 405, BEARER, line=of("DELETE")),
    row("OPTIONS", 405, BEARER, "Origin: http://evil.test", line=of("OPTIONS")),
    row("TRACE", 405, BEARER, line=of("TRACE")),
    row("CONNECT", 405, BEARER, line=of("CONNECT")),
    row("a method of its own", 405, BEARER, line=of("HUNTER")),
    row("another method before the token", 405, WRONG, line=of("GET", f"/heartbeat?token={TOKEN}")),
    row("a method that overrides", 405, BEARER, "X-HTTP-Method-Override: POST", line=of("GET")),
    # Bodies
    row("a large body without a token", 401, "Content-Length: 70000", body=LARGE),
    row("a large body", 413, BEARER, "Content-Length: 70000", body=LARGE),
    row("a large chunk without a token", 401, CHUNKED, body=LARGE_CHUNK),
    row("a large chunk", 413, BEARER, CHUNKED, body=LARGE_CHUNK),
    row(
        "a request in a body",
        401,
        CHUNKED,
        "Content-Length: 3",
        body=b"0\r\n\r\n" + row("", 0, BEARER).request,
    ),
    row("an announced body", 401, "Expect: 100-continue", "Content-Length: 3", body=b"abc"),
    row("another expectation", 401, "Expect: the-worst"),
    # Versions and upgrades
    Row("HTTP/0.9", b"POST /heartbeat\r\n\r\n", 401),
    Row("HTTP/1.0", b"POST /heartbeat HTTP/1.0\r\n\r\n", 401),
    row("HTTP/9.9", 401, line=of("POST", version="HTTP/9.9")),
    row("an upgrade to websocket", 401, "Upgrade: websocket", "Sec-WebSocket-Key: eA=="),
    row("an upgrade to HTTP/2", 401, "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ"),
    # Forwarded, by a peer that is not a trusted proxy
    row("a forwarded chain", 401, FORWARDED + "127.0.0.1"),
    row("a forwarded chain of garbage", 401, FORWARDED + "', ;--"),
]

# Answered by waitress: no request as HTTP has it.
SERVER = [
    row("NUL in a header", 400, f"Authorization: Bearer {HUNTER}\0"),
    row("a carriage return in a header", 400, f"X-A: {HUNTER}\r{BEARER}"),
    row("a line feed in a header", 400, f"X-A: {HUNTER}\n{BEARER}"),
    row("a space before the colon", 400, f"Authorization : Bearer {TOKEN}"),
    row("a header without a colon", 400, TOKEN),
    row("a header without a name", 400, f": {TOKEN}"),
    row("two tokens on two lines", 400, f"{BEARER}\n{OPERATOR_TOKEN}"),
    Row("a continuation of nothing", b"POST / HTTP/1.1\r\n " + TOKEN.encode() + b"\r\n\r\n", 400),
    row("a token as the method", 400, line=f"{HUNTER} /heartbeat HTTP/1.1"),
    row("a header of 300 kB", 431, "Authorization: Bearer " + HUNTER * 14_000),
    row("a negative length", 400, BEARER, "Content-Length: -1"),
    row("a length with a sign", 400, BEARER, "Content-Length: +1", body=b"x"),
    row("a length in letters", 400, BEARER, "Content-Length: many"),
    row("a length in other digits", 400, BEARER, b"Content-Length: \xb2"),
    row("two lengths", 400, BEARER, "Content-Length: 1", "Content-Length: 2", body=b"xx"),
    row("a length of terabytes", 413, BEARER, "Content-Length: 99999999999999"),
    row("a length of 5000 digits", 400, BEARER, "Content-Length: " + "9" * 5_000),
    row("an address with half a host", 400, BEARER, line=of("POST", "http://[/heartbeat")),
    # Patterns that backtrack would hold the process for minutes.
    row("250 kB of tabs and a NUL", 400, "X-A:" + "\t" * 250_000 + "\0"),
    Row("an address of 250 kB", b"GET a://" + b"1" * 250_000 + b" x\r\n\r\n", 400),
    row("a chunk of no size", 400, BEARER, CHUNKED, body=b"zz\r\n\r\n"),
    row("a chunk of negative size", 400, BEARER, CHUNKED, body=b"-1\r\n\r\n"),
    row(
        "a chunk with an extension of odd bytes",
        400,
        BEARER,
        CHUNKED,
        body=b"1;\xff\r\nx\r\n0\r\n\r\n",
    ),
    row("a method in small letters", 400, BEARER, line=of("post")),
    row("a path of odd bytes", 400, BEARER, line=of("POST", "/heartbeat/\xff")),
    row("a query of odd bytes", 400, BEARER, line=of("POST", "/heartbeat?\xff")),
    Row("the beginning of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    Row("bytes", b"\x00\xff\xfe" + HUNTER.encode() + b"\r\n\r\n", 400),
    # 501 is what HTTP (RFC 9112, 6.1) has for these: the server knows no such encoding.
    row("an unknown transfer encoding", 501, BEARER, "Transfer-Encoding: gzip"),
    row("a disguised transfer encoding", 501, BEARER, "Transfer-Encoding: xchunked"),
]

# Answered by the rest of the application: not the heartbeat's paths.
ELSEWHERE = [
    row("a path in capitals", 404, BEARER, line=of("POST", "/HEARTBEAT")),
    row("a path that ends in NUL", 404, BEARER, line=of("POST", "/heartbeat%00")),
    row("a path with parameters", 404, BEARER, line=of("POST", "/heartbeat;a=b")),
    row("a host that is a path", 404, BEARER, line=of("POST", "//localhost/heartbeat")),
    row("the server itself", 404, BEARER, line=of("OPTIONS", "*")),
    row("a form without its CSRF token", 400, BEARER, line=of("POST", "/form")),
]

# Odd, and all the same calls with a valid token by a method that is right: each is one beat.
VALID = [
    row("a scheme in small letters", 200, f"authorization:bearer {TOKEN}"),
    row("a header on two lines", 200, "Authorization: Bearer", f" {TOKEN}"),
    row("its own header", 200, f"x-heartbeat-token:   {TOKEN}  "),
    row("the operator's token", 200, f"Authorization: Bearer {OPERATOR_TOKEN}"),
    row(
        "another site's absolute address",
        200,
        BEARER,
        line=of("POST", "http://evil.test/heartbeat"),
    ),
    row("a query of odd escapes", 200, BEARER, line=of("POST", "/heartbeat?%ff=%zz&;=")),
    row("a body of 64 KiB", 200, BEARER, "Content-Length: 65536", body=b"{" * 65_536),
    row(
        "a chunked body and a length", 200, BEARER, CHUNKED, "Content-Length: 3", body=b"0\r\n\r\n"
    ),
    row("Prefer: a wait of 5000 digits", 200, BEARER, "Prefer: wait=" + "9" * 5_000),
    row("Prefer: other digits", 200, BEARER, b"Prefer: wait=\xb2, \xff=\xfe"),
    row("Prefer: punctuation", 200, BEARER, *['Prefer: ,;="\\'] * 100),
    row("Prefer: less than nothing", 200, BEARER, "Prefer: wait=-1, wait=0x10, wait=1e9, return"),
    row("a forwarded chain without a trusted proxy", 200, BEARER, FORWARDED + "garbage"),
]

SECRETS = (TOKEN, OPERATOR_TOKEN, HUNTER)


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Door]]:
    """Serve with the three configurations that the tests here need, started together."""
    few, proxies = "192.0.2.0/24, 2001:db8::/32", "127.0.0.1 10.0.0.0/8"
    make = tmp_path_factory.mktemp
    with (
        serve(make("door"), throttle=False) as door,
        serve(make("few"), allowed_ips=few) as door_for_few,
        serve(make("proxies"), allowed_ips=few, trusted_proxies=proxies) as door_behind_proxies,
    ):
        doors = {"all": door, "few": door_for_few, "proxies": door_behind_proxies}
        for each in doors.values():
            each.wait()
        yield doors


@pytest.fixture
def door(doors: dict[str, Door]) -> Door:
    """Serve everybody; refusals are not slowed down, since all of these come at once."""
    return doors["all"]


@pytest.fixture
def door_for_few(doors: dict[str, Door]) -> Door:
    """Serve addresses that this machine has none of."""
    return doors["few"]


@pytest.fixture
def door_behind_proxies(doors: dict[str, Door]) -> Door:
    """Serve a network behind two proxies, of which this machine is the last."""
    return doors["proxies"]


def test_there_are_sixty_hostile_requests_and_more() -> None:
    rows = [*APPLICATION, *SERVER, *ELSEWHERE]

    assert len({row.request for row in rows}) >= 100
    assert len({row.name for row in rows}) == len(rows)


@pytest.mark.parametrize("row", APPLICATION, ids=str)
def test_the_application_refuses_with_a_problem_that_no_cache_stores(door: Door, row: Row) -> None:
    before = door.counts()

    reply = door.send(row.request)

    assert reply.status == row.status
    assert door.counts() == before
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["content-type"] == "application/problem+json"
    if not row.request.startswith(b"HEAD"):
        assert reply.json()["status"] == row.status
        assert reply.json()["error"]
        assert not any(secret in reply.body.decode() for secret in SECRETS)
    assert not any(secret in door.log() for secret in SECRETS)


@pytest.mark.parametrize("row", SERVER, ids=str)
def test_the_server_refuses_invalid_requests(door: Door, row: Row) -> None:
    before = door.counts()

    reply = door.send(row.request)

    # A server that stops reading may be gone before its answer is read.
    assert reply.status in {row.status, 0 if row.status == 431 else row.status}
    assert not any(secret in f"{reply.headers}{reply.body!r}" for secret in SECRETS)
    assert door.counts() == before
    assert not any(secret in door.log() for secret in SECRETS)


@pytest.mark.parametrize("row", ELSEWHERE, ids=str)
def test_other_paths_are_not_the_heartbeats(door: Door, row: Row) -> None:
    before = door.counts()

    reply = door.send(row.request)

    assert reply.status == row.status
    assert not any(secret in f"{reply.headers}{reply.body!r}" for secret in SECRETS)
    assert door.counts() == before


@pytest.mark.parametrize("row", VALID, ids=str)
def test_an_odd_call_with_a_valid_token_is_one_beat(door: Door, row: Row) -> None:
    beats, _ = door.counts()

    reply = door.send(row.request)

    assert reply.status == row.status
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["content-type"] == "application/json"
    assert door.counts()[0] == beats + 1
    assert not any(secret in door.log() for secret in SECRETS)


@pytest.mark.parametrize(
    "row",
    [
        row("the token", 403, BEARER),
        row("the operator's token", 403, f"Authorization: Bearer {OPERATOR_TOKEN}"),
        row("no token", 403),
        row("an allowed address that is only claimed", 403, BEARER, FORWARDED + "192.0.2.1"),
        row("in Forwarded", 403, BEARER, "Forwarded: for=192.0.2.1"),
        row("in other headers", 403, BEARER, "X-Real-IP: 192.0.2.1", "Client-IP: 192.0.2.1"),
        row("a remote address as a header", 403, BEARER, "Remote-Addr: 192.0.2.1"),
        row(
            "with underscores", 403, BEARER, "REMOTE_ADDR: 192.0.2.1", "X_Forwarded_For: 192.0.2.1"
        ),
        row("a large body", 403, BEARER, "Content-Length: 70000", body=LARGE),
        row("nothing there", 403, BEARER, line=of("GET", "/heartbeat/nothing")),
        row("a path that is not text", 403, BEARER, line=of("POST", "/heartbeat/%ff")),
        row("another method", 405, BEARER, line=of("GET")),
    ],
    ids=str,
)
def test_an_address_that_is_not_allowed_is_refused_whatever_it_sends(
    door_for_few: Door, row: Row
) -> None:
    logged_before = len(door_for_few.log())

    reply = door_for_few.send(row.request)

    assert reply.status == row.status
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["error"] in {"Forbidden", "Method Not Allowed"}
    assert door_for_few.counts() == (0, 0)
    lines = door_for_few.log()[logged_before:].splitlines()
    assert sum("WARNING" in line and "refused a call from 127.0.0.1" in line for line in lines) == 1
    assert not any(secret in door_for_few.log() for secret in SECRETS)


@pytest.mark.parametrize(
    ("chain", "status"),
    [
        # Who is allowed, as each kind of proxy writes it
        ("192.0.2.7", 200),
        ("192.0.2.7:4711", 200),
        ("2001:db8::7", 200),
        ("[2001:db8::7]", 200),
        ("[2001:db8::7]:4711", 200),
        ("::ffff:192.0.2.7", 200),
        ("192.0.2.7, 10.1.2.3", 200),
        ("192.0.2.7,10.1.2.3,10.4.5.6", 200),
        ("  192.0.2.7  ,\t10.1.2.3 ", 200),
        ("198.51.100.1, 192.0.2.7", 200),
        ("garbage that the caller sent, 192.0.2.7, 10.1.2.3", 200),
        # The first stranger from the right counts, not what it claims
        ("192.0.2.7, 198.51.100.1", 403),
        ("192.0.2.7, 198.51.100.1, 10.1.2.3", 403),
        ("198.51.100.1", 403),
        ("10.1.2.3", 403),
        ("127.0.0.1", 403),
        ("::1", 403),
        ("2001:db9::7", 403),
        # Garbage closes
        ("", 403),
        (",", 403),
        ("192.0.2.7,", 403),
        ("192.0.2.7, garbage", 403),
        ("192.0.2.7, garbage, 10.1.2.3", 403),
        ("garbage, 10.1.2.3", 403),
        ("192.0.2.7 10.1.2.3", 403),
        ("192.0.2.7;10.1.2.3", 403),
        ("192.0.2.7:", 403),
        ("192.0.2.7:0", 403),
        ("192.0.2.7:99999", 403),
        ("192.0.2.7:http", 403),
        ("192.0.2.007", 403),
        ("192.0.2", 403),
        ("192.0.2.7.8", 403),
        ("192.0.2.0/24", 403),
        ("3221225991", 403),
        ("0xc0000207", 403),
        ("[192.0.2.7", 403),
        ("[2001:db8::7]:", 403),
        ("2001:db8::7]:80", 403),
        ("2001:db8::7::1", 403),
        ('for="192.0.2.7"', 403),
        ("unknown", 403),
        ("localhost", 403),
        ("192.0.2.7\u00a0", 403),
        ("\u00b9\u00b92.0.2.7", 403),
        ("%31%39%32.0.2.7", 403),
        ("1," * 20_000 + "10.1.2.3", 403),
    ],
)
def test_a_forwarded_chain_is_read_from_the_right(
    door_behind_proxies: Door, chain: str, status: int
) -> None:
    before, _ = door_behind_proxies.counts()

    reply = door_behind_proxies.send(row("", 0, BEARER, FORWARDED + chain).request)

    assert reply.status == status
    assert reply.headers["cache-control"] == "no-store"
    assert door_behind_proxies.counts()[0] == before + (status == 200)


def test_a_chain_may_come_in_several_headers(door_behind_proxies: Door) -> None:
    one = [BEARER, FORWARDED + "192.0.2.7", FORWARDED + "198.51.100.1"]
    other = [BEARER, FORWARDED + "198.51.100.1", FORWARDED + "192.0.2.7"]

    assert door_behind_proxies.send(row("", 0, *one).request).status == 403
    assert door_behind_proxies.send(row("", 0, *other).request).status == 200


def test_a_proxy_that_forwards_no_address_is_judged_by_its_own_address(
    door_behind_proxies: Door,
) -> None:
    assert door_behind_proxies.send(row("", 0, BEARER).request).status == 403


@pytest.mark.parametrize(
    "beginning",
    [
        b"POST /heartbeat HT",
        b"POST /heartbeat HTTP/1.1\r\nHost: localhost\r\n" + BEARER.encode(),
        row("", 0, BEARER, "Content-Length: 10", body=b"abc").request,
        row("", 0, BEARER, CHUNKED, body=b"5\r\nab").request,
    ],
    ids=["a line", "a header", "a body", "a chunk"],
)
def test_a_request_that_never_ends_starts_nothing_and_blocks_no_other(
    door: Door, beginning: bytes
) -> None:
    beats, runs = door.counts()
    slow = [door.connect() for _ in range(8)]  # the server has four threads
    for client in slow:
        client.sendall(beginning)

    assert door.send(row("", 0, WRONG).request).status == 401

    for client in slow:
        client.close()
    assert door.send(row("", 0, WRONG).request).status == 401
    assert door.counts() == (beats, runs)


def test_a_body_that_comes_in_pieces_is_one_beat(door: Door) -> None:
    beats, _ = door.counts()
    request = row("", 0, BEARER, "Content-Length: 10", body=b"0123456789").request

    with closing(door.connect()) as client:
        for byte in request:
            client.sendall(bytes([byte]))
        reply = read_reply(client)

    assert reply.status == 200
    assert door.counts()[0] == beats + 1

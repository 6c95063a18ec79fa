"""Odd requests, planned by a seed: paths, headers, bodies and tokens that no caller should send."""

from __future__ import annotations

import random

# What most requests have, so that they get past the server.
PLAIN_METHODS, PLAIN_VERSION = ("GET", "POST", "PATCH", "DELETE"), "HTTP/1.1"
METHODS = ("PUT", "HEAD", "OPTIONS", "BREW", "get", "P\tOST")
PATHS = (
    *(
        "/heartbeat",
        "/heartbeat/",
        "//heartbeat",
        "/heartbeat/flows",
        "/heartbeat/flows/import_csv",
    ),
    *("/heartbeat/flows/x", "/heartbeat/flows/import_csv/runs", "/heartbeat/runs/1"),
    *("/heartbeat/runs/999999999999999999", "/heartbeat/runs/x", "/heartbeat/%ff", "/%ff", "/"),
    *("/heartbeat/runs", "/heartbeat/runs?limit=0", "/heartbeat/runs?flow=%00&before=9e99"),
    *("/heartbeat/beats", "/heartbeat/beats?limit=1&limit=2", "/heartbeat/runs?flow=%ff&status="),
    *("/heartbeat/openapi.json", "/heartbeat/runs?flow=%F0%9F%A6%89", "/heartbeat/beats?x=1"),
    *("/heartbeats", "/heartbeat/../heartbeat", "/heartbeat/flows/%00", "/heartbeat/flows/..%2f"),
    *("/heartbeat/flows/%F0%9F%A6%89", "http://[/heartbeat", "http://x:99999999/heartbeat", "*"),
)
VERSIONS = ("HTTP/1.0", "HTTP/9", "x")
BODIES = (
    *("", "{}", "[]", "null", '{"every": "5m"}', '{"cron": "0 3 * * *"}', '{"every": -1}'),
    *(
        '{"configuration": {"a": 1}}',
        '{"enabled": true}',
        '{"every": 1e400}',
        '{"name": "\\u0000"}',
    ),
    *('{"name": "x", "handler": "import_csv", "every": "1h"}', '{"enabled": "maybe"}'),
    *('{"configuration": ' + "[" * 40 + "]" * 40 + "}", '{"name": "' + "x" * 500 + '"}'),
)
LENGTHS = ("-1", "x", "99999999999", "+5", "5, 5", "9" * 5_000)


class OddRequests:
    """Makes requests as bytes. With the same seed and tokens, they are the same."""

    def __init__(self, seed: int, tokens: tuple[str, ...] = ()) -> None:
        """Without `tokens`, no request holds a valid one."""
        self.random = random.Random(seed)  # noqa: S311 - a plan, no secret
        self.tokens = tokens

    def next(self) -> bytes:
        """Make a request."""
        choice = self.random.choice
        method, version = choice(PLAIN_METHODS), PLAIN_VERSION
        if self.random.random() < 0.1:
            method, version = choice(METHODS), choice(VERSIONS)
        path = choice(PATHS) + choice(("", "", "", "", "?a=b", "?token=x", f"?{self.junk(10)}"))
        headers = [
            choice(("Host: localhost",) * 20 + (f"Host: {self.junk(15)}",)),
            "Connection: close",
        ]
        headers += [self.header() for _ in range(self.random.randint(0, 4))]
        if self.tokens and self.random.random() < 0.4:
            headers.append(f"Authorization: Bearer {choice(self.tokens)}")
        framing, body = self.body()
        first = f"{method} {path} {version}"
        lines = [line.replace("\r", "").replace("\n", "") for line in (first, *headers, *framing)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body

    def junk(self, most: int) -> str:
        """Make a text of any printable characters of Latin-1, and tabs."""
        kinds = (lambda: self.random.randint(33, 126), lambda: self.random.randint(128, 255))
        codes = (
            self.random.choice((*kinds, lambda: 9))() for _ in range(self.random.randint(0, most))
        )
        return "".join(map(chr, codes))

    def header(self) -> str:
        """Make a header."""
        junk, choice = self.junk, self.random.choice
        secret = choice((*self.tokens, "x", junk(40), "", "a-token-that-nobody-has"))
        return choice(
            (
                f"Authorization: {choice(('Bearer', 'bearer', 'Basic', 'Digest'))} {secret}",
                f"X-Heartbeat-Token: {secret}",
                f"X-Forwarded-For: {choice(('1.2.3.4', '::1', '1.2.3.4, 5.6.7.8', junk(20)))}",
                f"Prefer: {choice(('wait=0', 'wait=1e9', 'respond-async', 'wait=' + junk(8)))}",
                f"Accept: {choice(('application/json', 'text/html', 'q=;', junk(20)))}",
                f"Content-Type: {choice(('application/json', 'text/plain', junk(10)))}",
                f"Cookie: {junk(60)}",
                f"X-Odd: {junk(30)}",
                choice((f"X-{junk(8)}: 1", "X-Odd : 1", " folded", "X-Odd: 1")),
                "X: " + "\t" * self.random.randint(0, 7_000),
                "Expect: 100-continue",
                f"Connection: {choice(('keep-alive', 'upgrade', junk(5)))}",
            )
        )

    def body(self) -> tuple[list[str], bytes]:
        """Make the headers that frame a body, and the body: whole, cut or malformed."""
        body = self.random.choice((*BODIES, self.junk(200))).encode("latin-1", "replace")
        kind = self.random.random()
        if kind < 0.4:
            return [], b""
        if kind < 0.7:
            return [f"Content-Length: {len(body)}"], body
        if kind < 0.9:
            chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            whole = self.random.random() < 0.7
            return ["Transfer-Encoding: chunked"], chunks[: None if whole else len(chunks) // 2]
        if kind < 0.95:
            return [f"Content-Length: {self.random.choice(LENGTHS)}"], body
        return [f"Transfer-Encoding: {self.random.choice(('gzip', 'chunked, chunked', 'x'))}"], body

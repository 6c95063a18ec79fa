"""The removal of secrets from text before it is stored or shown."""

import contextlib
import time
from typing import Any

import pytest
from sqlalchemy import make_url

from data_flows.heartbeat import redaction
from data_flows.heartbeat.redaction import (
    LONGEST_BACKTRACE,
    LONGEST_MESSAGE,
    as_ascii,
    describe_error,
    redact,
    short_error,
    shorten,
    without_password,
)


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("postgresql://joe:hunter2@db/app", "postgresql://***@db/app"),
        ("mysql+pymysql://joe:hunt:er@2@db", "mysql+pymysql://***@db"),
        ("amqp://:hunter2@broker", "amqp://***@broker"),
        ("https://hunter2@git.example/a b", "https://***@git.example/a b"),
        ("HTTPS://JOE:HUNTER2@HOST", "HTTPS://***@HOST"),
    ],
)
def test_the_userinfo_of_a_url_is_masked_and_the_host_stays(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org:8080/a/b?c=d@e",
        "sqlite:////srv/app/var/app.sqlite",
        "mail joe@example.org about https://example.org",
        "there is no token",
        "the password was refused",
        "rows: 3, tokens seen: 4",
        "Access denied for user 'joe'@'db' (using password: YES)): correct the password",
        "Access denied for user 'joe'@'db' (using password: NO)): correct the password",
    ],
)
def test_what_holds_no_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer hunter2",
        "authorization=hunter2",
        "Authorization: hunter2",
        "AUTHORIZATION : Basic hunter2==",
        "Proxy-Authorization: ApiKey hunter2",
        "{'Authorization': 'Bearer hunter2'}",
        '{"authorization": "Token hunter2"}',
        'Authorization: Digest username="hunter2", response="hunter2", uri=hunter2',
        "AWS authorization: AWS4-HMAC-SHA256 Credential=hunter2, Signature=hunter2",
        "sent bearer hunter2hunter2",
        "-H 'Basic hunter2hunter2'",
    ],
)
def test_an_authorization_header_is_masked(text: str) -> None:
    masked = redact(text)

    assert "hunter2" not in masked
    assert "***" in masked


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "PASSWORD",
        "db_password",
        "passwd",
        "client-secret",
        "AWS_SECRET",
        "token",
        "access_token",
        "api_key",
        "apikey",
        "X-Api-Key",
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        "NAME=hunter2",
        "NAME: hunter2",
        "NAME = hunter2",
        'NAME="hunter2"',
        "NAME='hunt\\'er hunter2'",
        '{"NAME": "hunt\\"er hunter2"}',
        "{'NAME': 'hunter2'}",
        "{'NAME': b'hunter2'}",
        "https://example.org/?a=b&NAME=hunter2&c=d",
        'cut off: "NAME": "hunter2',
    ],
)
def test_the_value_of_a_revealing_name_is_masked_and_the_name_stays(name: str, form: str) -> None:
    masked = redact(form.replace("NAME", name))

    assert "hunter2" not in masked
    assert name in masked


def test_a_value_ends_where_the_next_one_begins() -> None:
    text = "https://example.org/?token=hunter2&page=3, status 500"

    assert redact(text) == "https://example.org/?token=***&page=3, status 500"


@pytest.mark.parametrize("close", [")", "]", "}", ">", ":", ")): "])
def test_a_value_ends_before_what_closes_the_sentence_around_it(close: str) -> None:
    masked = redact(f"refused (password=hunt)er2{close} go on")

    assert masked == f"refused (password=***{close} go on"


@pytest.mark.parametrize("value", ["no", "yes", "none)", "yes)2", ")))"])
def test_a_value_of_odd_characters_is_masked(value: str) -> None:
    assert redact(f"password={value} go on") in {"password=*** go on", "password=***) go on"}


def test_a_quote_that_is_not_closed_masks_its_own_line_alone() -> None:
    assert redact('password="hunter2\nline 2') == 'password="***\nline 2'


def test_our_own_secrets_are_masked_wherever_they_stand() -> None:
    text = "GET /hunter2/x failed for [hunter2] and swordfish"

    assert redact(text, ["hunter2", "swordfish"]) == "GET /***/x failed for [***] and ***"


def test_an_empty_secret_masks_nothing() -> None:
    assert redact("as it is", [""]) == "as it is"


def test_what_no_database_stores_is_replaced() -> None:
    assert redact("a\0b\ud800c") == "a\N{REPLACEMENT CHARACTER}b?c"


def test_text_beyond_the_limit_keeps_its_beginning_and_its_end() -> None:
    text = "begin" + "x" * 500 + "end"

    cut = redact(text, limit=100)

    assert len(cut) <= 100
    assert cut.startswith("begin")
    assert cut.endswith("end")
    assert "cut here" in cut


def test_text_as_long_as_the_limit_is_whole() -> None:
    assert shorten("x" * 100, 100) == "x" * 100


def test_a_secret_at_the_cut_is_masked_before_the_cut() -> None:
    text = "x" * 35 + "swordfish" + "x" * 500

    assert "sword" not in redact(text, ["swordfish"], limit=100)


@pytest.mark.parametrize(
    "piece",
    ["a", "a-", "a.", "a://", ":", "authorization=", 'token="', "password", "bearer ", '"', "\\"],
)
def test_a_whole_document_is_redacted_in_no_time(piece: str) -> None:
    began = time.process_time()

    redact("a://" + piece * (100_000 // len(piece)))

    assert time.process_time() - began < 2


# ---------------------------------------------------------------------------------------------
# Texts of any size

HUGE = 50_000_000
SECRET = "catfish-0123456789-hunter2"  # noqa: S105 - an example


class Reads:
    """Stands for the patterns of secrets, and counts the characters that they read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.characters = 0
        for name in ("PATTERNS", "PATTERNS_BEFORE_CUT"):
            patterns = [_Counted(pattern, self) for pattern in getattr(redaction, name)]
            monkeypatch.setattr(redaction, name, patterns)


class _Counted:
    def __init__(self, pattern: Any, reads: Reads) -> None:
        self.pattern, self.reads = pattern, reads

    def sub(self, replacement: str, text: str) -> str:
        """Replace as the pattern does."""
        self.reads.characters += len(text)
        masked: str = self.pattern.sub(replacement, text)
        return masked


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Count what the patterns read."""
    return Reads(monkeypatch)


@pytest.mark.parametrize("piece", ["x", "a word ", "a line\n", "token=abc ", "https://a:b@c\n"])
def test_of_a_huge_text_only_what_is_shown_is_read(reads: Reads, piece: str) -> None:
    text = piece * (HUGE // len(piece))

    shown = redact(text, ["swordfish"], LONGEST_MESSAGE)

    assert len(shown) <= LONGEST_MESSAGE
    assert "cut here" in shown
    assert reads.characters < 100_000


@pytest.mark.parametrize(
    "make",
    [
        ValueError,
        SystemExit,
        lambda text: ValueError(text, text),
        type("Named" * 1_000_000, (ValueError,), {}),
        lambda text: ExceptionGroup(text, [ValueError(text)]),
    ],
    ids=["message", "exit", "arguments", "name", "group"],
)
def test_of_a_huge_error_only_what_is_shown_is_read(reads: Reads, make: Any) -> None:
    error = make("token: abc\n" * (HUGE // 11))
    error.add_note("x" * HUGE)

    described = describe_error(raised(error), ["swordfish"])

    assert {name: len(text) for name, text in described.items() if len(text) > 12_000} == {}
    assert len(described["error_message"]) <= LONGEST_MESSAGE
    assert reads.characters < 500_000


def test_the_end_of_a_huge_text_is_whole_lines() -> None:
    text = "first\n" + "x" * 100_000 + "\nsecond to last, token=abc\nlast"

    shown = redact(text, limit=1_000)

    assert shown.startswith("first\nxxx")
    assert shown.endswith("xxx\n... cut here ...\nsecond to last, token=***\nlast")


def test_of_a_huge_line_only_the_beginning_is_shown() -> None:
    shown = redact("x" * 100_000, limit=1_000)

    assert shown == "x" * 982 + "\n... cut here ...\n"


FORMS = [
    f"{SECRET} ",
    f"https://joe:{SECRET}@host ",
    f"https://{SECRET}@host ",
    f"password={SECRET} ",
    f"password:\n   {SECRET}\n",
    f"password:\n{SECRET} ",
    f'"token": "{SECRET}" ',
    f"'api_key': b'{SECRET}' ",
    f"Authorization: Bearer {SECRET}\n",
    f'Authorization: Digest username="{SECRET}", response="{SECRET}"\n',
    f"bearer {SECRET} ",
    f"basic\n{SECRET}\n",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("filler", ["x", "word ", "a line of text\n"], ids=["x", "words", "lines"])
@pytest.mark.parametrize("length", [400, 6_000])
def test_a_cut_shows_no_part_of_a_secret(form: str, filler: str, length: int) -> None:
    limit = 200
    secrets = [SECRET] if form == FORMS[0] else []
    filling = filler * (length // len(filler) + 1)
    # Around each place where a text may be cut: where it is shown, and where it is read.
    half = (limit - 18) // 2
    edges = [half, limit, limit + 1_000, half + 1_000, 4 * half, 4 * half + 1_000]
    for edge in edges:
        for offset in range(edge - len(form) - 20, edge + 20, 2):
            before, after = filling[: max(0, offset)], filling[: length - offset]
            for text in (f"{before} {form}{after}", f"{after} {form}{before}"):
                shown = redact(text, secrets, limit)
                assert not parts_of_the_secret(shown), (edge, offset, shown)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("between", ["", "x ", "\n"], ids=["nothing", "x", "lines"])
def test_a_cut_shows_no_part_of_many_secrets(form: str, between: str) -> None:
    """Masks are shorter than the secrets: what is shown reaches to where reading stopped."""
    secrets = [SECRET] if form == FORMS[0] else []
    piece = form + between
    for offset in range(len(piece)):
        text = "y" * offset + " " + piece * (6_000 // len(piece))
        shown = redact(text, secrets, 200)
        assert not parts_of_the_secret(shown), (offset, shown)


def test_a_name_on_the_line_before_the_end_is_read() -> None:
    other = "q" * 50
    for offset in range(60):
        text = f"{'x' * 6_000} password:\n{SECRET} {f'{other} ' * 6}{'y' * offset}"
        assert not parts_of_the_secret(redact(text, [other], 200)), offset


@pytest.mark.parametrize("form", FORMS)
def test_a_cut_shows_no_part_of_a_secret_that_is_longer_than_all_that_is_read(form: str) -> None:
    limit = 200
    secret = SECRET * 1_000
    secrets = [secret] if form == FORMS[0] else []
    form = form.replace(SECRET, secret)
    for length in (0, 100, 180, 1_000, 5_000, 100_000):
        for filler in ("x", "a line of text\n"):
            filling = (filler * (length // len(filler) + 1))[:length]
            for text in (f"{filling} {form}", f" {form}{filling}", f"{filling} {form}{filling}"):
                shown = redact(text, secrets, limit)
                assert not parts_of_the_secret(shown), (length, filler, shown)


def parts_of_the_secret(shown: str) -> list[str]:
    """Return the shown parts of the secret: five characters of it in a row, or more."""
    return [SECRET[n : n + 5] for n in range(len(SECRET) - 4) if SECRET[n : n + 5] in shown]


def test_texts_of_ascii_alone_are_what_any_database_can_store() -> None:
    values = {
        "error_type": "Käuzchen" * 100,
        "error_message": "a\0b 🦉 \ud800",
        "error_backtrace": "🦉" * 20_000,
        "log": None,
        "duration": 1.5,
    }

    escaped = as_ascii(values)

    assert escaped["error_message"] == r"a\x00b \U0001f989 \ud800"
    assert (escaped["log"], escaped["duration"]) == (None, 1.5)
    assert all(escaped[name].isascii() for name in ("error_type", "error_backtrace"))
    assert len(escaped["error_type"]) <= 200
    assert len(escaped["error_backtrace"]) <= LONGEST_BACKTRACE


# ---------------------------------------------------------------------------------------------
# Errors


def raised(error: BaseException) -> BaseException:
    """Return the error with the backtrace of having been raised here."""

    def throw() -> None:
        raise error

    with contextlib.suppress(type(error)):
        throw()
    return error


def test_a_database_is_shown_without_what_its_url_keeps_secret() -> None:
    url = make_url("postgresql://joe:hunter2@db:5432/app?sslpassword=hunter2&password=hunter2")

    assert without_password(url) == "postgresql://joe:***@db:5432/app"


def test_an_error_is_described_by_type_message_and_backtrace() -> None:
    described = describe_error(raised(LookupError("no such bird")))

    assert described["error_type"] == "LookupError"
    assert described["error_message"] == "no such bird"
    assert "raise error" in described["error_backtrace"]
    assert described["error_backtrace"].endswith("LookupError: no such bird\n")


def test_the_cause_of_an_error_is_in_its_backtrace() -> None:
    error = RuntimeError("second")
    error.__cause__ = raised(ValueError("first"))

    assert "ValueError: first" in describe_error(raised(error))["error_backtrace"]


def test_the_notes_of_an_error_are_reported_with_its_message() -> None:
    error = ValueError("three legs")
    error.add_note("in birds.csv")

    assert describe_error(error)["error_message"] == "three legs\nin birds.csv"


def test_the_values_of_variables_are_not_in_a_backtrace() -> None:
    def connect(credential: str) -> None:
        raise ConnectionError(len(credential))

    try:
        connect("hunter2")
    except ConnectionError as error:
        described = describe_error(error)

    assert "raise ConnectionError(len(credential))" in described["error_backtrace"]
    assert "hunter2" not in described["error_backtrace"].replace('connect("hunter2")', "")


def test_message_and_backtrace_are_redacted_and_cut() -> None:
    described = describe_error(
        raised(ValueError("swordfish password=hunter2 " + "x" * 50_000)), ["swordfish"]
    )

    text = described["error_message"] + described["error_backtrace"]
    assert "hunter2" not in text
    assert "swordfish" not in text.replace('"swordfish', "")
    assert len(described["error_message"]) <= LONGEST_MESSAGE
    assert len(described["error_backtrace"]) <= LONGEST_BACKTRACE


class Unspeakable(Exception):  # noqa: N818 - its name is what the test is about
    """An error that cannot be turned into text."""

    def __str__(self) -> str:
        """Raise what it was made with."""
        raise self.args[0]


@pytest.mark.parametrize("inner", [ValueError("no text"), SystemExit(3), KeyboardInterrupt()])
def test_an_error_that_cannot_be_turned_into_text_is_described_all_the_same(
    inner: BaseException,
) -> None:
    described = describe_error(raised(Unspeakable(inner)))

    assert described["error_type"] == "Unspeakable"
    assert described["error_message"] == "(the error could not be turned into text)"
    assert "raise error" in described["error_backtrace"]


TELLING = [
    "AWS_SECRET_ACCESS_KEY=hunter2hunter2",
    "SECRET_KEY = hunter2hunter2",
    "Server=db;Uid=joe;Pwd=hunter2;Database=app",
    "pwd: hunter2hunter2",
    "db.password.default=hunter2hunter2",
    '{"client_secret_v2": "hunter2hunter2"}',
    "aws_credentials='hunter2hunter2'",
    "AccountKey=hunter2hunter2==;EndpointSuffix=core",
    "Cookie: session=hunter2hunter2; theme=hunter2",
    "set-cookie: id=hunter2; Path=/; HttpOnly",
    "[('Authorization', 'Bearer hunter2hunter2'), ('X-Api-Key', 'hunter2')]",
    "(b'authorization', b'Bearer hunter2hunter2')",
    "{'Cookie': 'session=hunter2hunter2'}",
    "['psql', '--password', 'hunter2']",
    "mysqldump --password hunter2 app",
    "mysqldump --db-password=hunter2 app",
    "tool --api-key hunter2hunter2 --verbose",
    "https://blob.example/a?sv=1&sig=hunter2%2Bhunter2&se=2",
    "https://s3.example/a?X-Amz-Signature=hunter2hunter2",
    "got eyJhbGciOiJIUzI1NiJ9.hunter2hunter2.hunter2hunter2 back",
    "-----BEGIN RSA PRIVATE KEY-----\nhunter2hunter2\nhunter2==\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\\nhunter2hunter2\\nhunter2==\\n-----END PRIVATE KEY-----",
]


@pytest.mark.parametrize("text", TELLING)
def test_secrets_of_all_kinds_are_masked(text: str) -> None:
    redacted = redact(f"before {text}\nafter")

    assert "hunter2" not in redacted
    assert redacted.startswith("before ")
    assert redacted.endswith("\nafter")
    assert "***" in redacted


@pytest.mark.parametrize(
    "text",
    [
        "KeyError: 'name'",
        "duplicate key value violates unique constraint",
        "the monkey: brown",
        "InvalidTokenError: not enough segments",
        "there is no signature=on this letter",
        "--verbose --limit 20",
        "the cookie jar is empty",
        "-----BEGIN CERTIFICATE-----",
    ],
)
def test_what_only_looks_like_a_name_of_a_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_our_own_secrets_are_masked_in_any_encoding() -> None:
    own = "p@ss/w\u00f6rd \u2603 +1"
    forms = [
        own,
        "p%40ss%2Fw%C3%B6rd%20%E2%98%83%20%2B1",
        "p%40ss%2Fw%C3%B6rd+%E2%98%83+%2B1",
        r"p@ss/w\u00f6rd \u2603 +1",
        "cEBzcy93w7ZyZCDimIMgKzE=",
    ]

    for form in forms:
        assert redact(f"<{form}>", [own]) == "<***>"


@pytest.mark.parametrize("secret", ["", "x", "root", "abcde"])
def test_a_secret_that_any_text_may_hold_shreds_no_message(secret: str) -> None:
    text = "x: the root of all: abcde"

    assert redact(text, [secret]) == text


SQL = "\n[SQL: INSERT INTO birds (name) VALUES (?)]\n[parameters: ('owl',)]"
ADVICE = "\n(Background on this error at: https://sqlalche.me/e/21/gkpj)"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            f"(sqlite3.IntegrityError) UNIQUE failed{SQL}{ADVICE}",
            "(sqlite3.IntegrityError) UNIQUE failed",
        ),
        (f"failed{SQL}{ADVICE}\na note", "failed a note"),
        (f"failed{SQL[:30]}", "failed"),
        (f"no table{ADVICE}", "no table"),
        ('no "x"\nLINE 1: SELECT x\n               ^\nHINT: y' + SQL + ADVICE, 'no "x" HINT: y'),
        ("(raised as a result of autoflush) failed", "failed"),
        ("two\n  lines \x1b[2J", "two lines \\x1b[2J"),
        ("x" * 301, "x" * 297 + "..."),
        ("", ""),
    ],
)
def test_an_error_in_a_log_line_is_short(message: str, line: str) -> None:
    assert short_error(message) == line

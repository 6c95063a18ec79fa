"""What is taken out of text before it is stored or shown, and what stays."""

import contextlib
import time

import pytest
from sqlalchemy import make_url

from {{cookiecutter.project_slug}}.heartbeat.redaction import (
    LONGEST_BACKTRACE,
    LONGEST_MESSAGE,
    describe_error,
    redact,
    shorten,
    shown,
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
def test_the_value_of_a_telling_name_is_masked_and_the_name_stays(name: str, form: str) -> None:
    masked = redact(form.replace("NAME", name))

    assert "hunter2" not in masked
    assert name in masked


def test_a_value_ends_where_the_next_one_begins() -> None:
    text = "https://example.org/?token=hunter2&page=3, status 500"

    assert redact(text) == "https://example.org/?token=***&page=3, status 500"


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


def raised(error: BaseException) -> BaseException:
    """Return the error with the backtrace of having been raised here."""

    def throw() -> None:
        raise error

    with contextlib.suppress(type(error)):
        throw()
    return error


def test_a_database_is_shown_without_what_its_url_keeps_secret() -> None:
    url = make_url("postgresql://joe:hunter2@db:5432/app?sslpassword=hunter2&password=hunter2")

    assert shown(url) == "postgresql://joe:***@db:5432/app"


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


def test_the_notes_of_an_error_are_told_with_its_message() -> None:
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

"""Tokens: where they come from, and when a presented one is valid."""

import os
from pathlib import Path

import pytest

from data_flows.heartbeat.security.token import Tokens, presented_token


def secrets(tokens: Tokens) -> list[str]:
    return [token.secret for token in tokens.all()]


@pytest.mark.parametrize(
    ("authorization", "own_header", "token"),
    [
        ("Bearer abc", None, "abc"),
        ("bEARER  abc ", None, "abc"),
        ("Bearer a b", None, "a b"),
        (None, " abc ", "abc"),
        ("Basic abc", "own", "own"),
        ("Bearer abc", "own", "abc"),
        ("Bearer", "own", "own"),
        ("Bearer ", None, None),
        ("abc", None, None),
        ("Basic abc", None, None),
        ("", "", None),
        (None, None, None),
    ],
)
def test_the_token_is_found_in_either_header(
    authorization: str | None, own_header: str | None, token: str | None
) -> None:
    assert presented_token(authorization, own_header) == token


def test_setting_and_file_are_valid_together(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n\n two \r\nthree\n")

    tokens = Tokens("own", file)

    assert secrets(tokens) == ["own", "one", "two", "three"]
    assert all(tokens.match(token) for token in ("own", "one", "two", "three"))
    assert not any(tokens.match(token) for token in ("", "on", "one\n", "One", "oneone"))


def test_no_source_means_no_token() -> None:
    assert secrets(Tokens()) == []
    assert not Tokens().match("anything")
    assert not Tokens().match("")


@pytest.mark.parametrize("kind", ["missing", "folder", "not text"])
def test_a_file_that_cannot_be_read_counts_as_empty(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "token"
    if kind == "folder":
        file.mkdir()
    elif kind == "not text":
        file.write_bytes(b"\xff\xfe\x00")

    assert secrets(Tokens("own", file)) == ["own"]


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    tokens = Tokens(None, file)
    before = secrets(tokens)

    file.write_text("two\n")
    os.utime(file, ns=(1, 1))  # as long as the last one, and written in the same instant

    assert (before, secrets(tokens)) == (["one"], ["two"])


def test_a_file_that_goes_away_takes_its_tokens_along(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    tokens = Tokens(None, file)
    assert tokens.match("one")

    file.unlink()

    assert not tokens.match("one")


@pytest.mark.parametrize("presented", ["\xff\xfe", "é", "\U0001f511", "\udcff", "\0", "x" * 10**6])
def test_any_text_can_be_compared(presented: str) -> None:
    assert not Tokens("own").match(presented)


def test_a_repr_shows_no_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("hunter2\n")
    tokens = Tokens("swordfish", file)
    assert tokens.match("hunter2")

    assert "hunter2" not in repr(tokens)
    assert "swordfish" not in repr(tokens)

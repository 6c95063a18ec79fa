"""Token files: the format of a line, when they are read again, and that no secret is shown."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from data_flows.heartbeat.security.token import (
    Token,
    Tokens,
    presented_token,
    read_tokens,
    weakness,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Name a token file that does not exist yet."""
    return tmp_path / "beat.token"


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        (b"", []),
        (b"\n \n\t\n", []),
        (b"one", [("one", "")]),
        (b"one\ntwo\r\nthree\n", [("one", ""), ("two", ""), ("three", "")]),
        (b"  one   the first one  \n", [("one", "the first one")]),
        (b"one\tcron\n", [("one", "cron")]),
        (b"# one\n  # two\nthree # a name\n", [("three", "# a name")]),
        (b"\xef\xbb\xbfone\r\n", [("one", "")]),
        ("schl\u00fcssel n\u00e4chtlich".encode(), [("schl\u00fcssel", "n\u00e4chtlich")]),
        (b"\xff\xfeo\0n\0e\0", []),
        (b"one\n\x80", []),
    ],
)
def test_a_line_is_a_secret_and_its_name(
    file: Path, content: bytes, tokens: list[tuple[str, str]]
) -> None:
    file.write_bytes(content)

    assert [(token.secret, token.name) for token in read_tokens(file)] == tokens


@pytest.mark.parametrize("name", ["missing", ".", "missing/file", "no\0path", "x" * 5_000])
def test_what_cannot_be_read_holds_no_token(tmp_path: Path, name: str) -> None:
    assert list(read_tokens(Path(f"{tmp_path}/{name}"))) == []


def test_setting_and_file_are_valid_together(file: Path) -> None:
    file.write_text("of-the-file cron\n")
    tokens = Tokens("of-the-setting", file)

    assert tokens.match("of-the-setting") == Token("of-the-setting")
    assert tokens.match("of-the-file") == Token("of-the-file", "cron")


def test_nothing_matches_where_there_is_no_token() -> None:
    tokens = Tokens()

    assert tokens.all() == []
    assert not any(map(tokens.match, ("", " ", "None", "undefined")))


@pytest.mark.parametrize("presented", ["", "one ", " one", "One", "on", "onee", "one\0", "\ud800"])
def test_a_token_matches_as_a_whole_or_not_at_all(file: Path, presented: str) -> None:
    file.write_text("one\n")

    assert Tokens(file=file).match("one")
    assert Tokens(file=file).match(presented) is None


def test_letters_beyond_ascii_match_by_their_bytes(file: Path) -> None:
    file.write_text("schl\u00fcssel\n", "utf-8")

    assert Tokens(file=file).match("schl\u00fcssel".encode().decode("latin-1"))


def test_a_file_is_read_again_when_it_changes(file: Path) -> None:
    tokens = Tokens(file=file)
    assert tokens.match("first") is None

    file.write_text("first\n")
    assert tokens.match("first")

    file.write_text("first\nsecond\n")
    assert tokens.match("first")
    assert tokens.match("second")

    replacement = file.with_suffix(".new")
    replacement.write_text("third\nfourth\n")
    replacement.replace(file)
    assert tokens.match("second") is None
    assert tokens.match("third")

    file.unlink()
    assert tokens.match("third") is None


def test_a_file_that_could_not_be_read_once_is_tried_again(file: Path) -> None:
    file.write_bytes(b"\xff\n")
    status = file.stat()
    tokens = Tokens(file=file)
    assert tokens.match("a") is None

    # The same to look at: another content, with size and times as before but that of its change.
    file.write_bytes(b"a\n")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert tokens.match("a")


def make_fifo(file: Path) -> None:
    """Put a FIFO to the place of the file."""
    file.unlink()
    os.mkfifo(file)


def make_folder(file: Path) -> None:
    """Put a folder to the place of the file."""
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda file: file.write_bytes(b"one\n\xff"), "is not UTF-8"),
        (lambda file: file.write_text("t" * 30, "utf-16"), "is not UTF-8"),
        (lambda file: file.write_text("x\n"), "is a placeholder"),
        (lambda file: file.write_text("a-token-of-16-and-more\nchangeme\n"), "is a placeholder"),
        (lambda file: file.write_text("abcdefgh\n"), "is shorter than 16 characters"),
        (make_fifo, "is not a regular file"),
        (make_folder, "is not a regular file"),
    ],
)
def test_while_a_file_is_invalid_its_last_tokens_stay_valid(
    file: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], object],
    problem: str,
) -> None:
    file.write_text("the-first-token-of-all cron\n")
    tokens = Tokens(file=file, weakness=weakness)
    assert tokens.match("the-first-token-of-all")

    damage(file)
    found = [[token.secret for token in tokens.all()] for _ in range(3)]

    assert found == [["the-first-token-of-all"]] * 3
    [logged] = caplog.messages
    assert str(file) in logged
    assert problem in logged
    assert problem in tokens.problem

    if file.is_dir():
        file.rmdir()
    else:
        file.unlink()
    file.write_text("the-second-token-of-all\n")
    assert [token.secret for token in tokens.all()] == ["the-second-token-of-all"]
    assert tokens.problem == ""


def test_a_slow_writer_makes_no_part_of_a_token_valid(file: Path) -> None:
    tokens = Tokens(file=file, weakness=weakness)
    old, new = "the-first-token-of-all", "the-second-token-of-all-which-is-long"
    file.write_text(f"{old}\n")
    assert tokens.match(old)

    for length in (0, 1, 16, 25, len(new)):
        file.write_text(new[:length])
        assert [token.secret for token in tokens.all()] == [old]

    file.write_text(f"{new}\n")
    assert [token.secret for token in tokens.all()] == [new]


def test_a_file_without_a_last_line_end_counts_once_it_is_left_alone(file: Path) -> None:
    tokens = Tokens(file=file)
    file.write_text("one")
    assert tokens.all() == []

    written = file.stat().st_mtime
    os.utime(file, (written, written - 60))

    assert tokens.match("one")


def test_no_secret_shows(file: Path) -> None:
    file.write_text("hunter2hunter2 cron\n")
    tokens = Tokens("swordfish", file)

    text = f"{tokens!r} {tokens} {tokens.all()!r} {tokens.match('swordfish')!r}"

    assert "hunter2" not in text
    assert "swordfish" not in text
    assert "cron" in text


def test_a_fingerprint_identifies_a_token_and_does_not_disclose_it() -> None:
    one, other = Token("one-secret", "cron"), Token("other-secret", "cron")

    assert len(one.fingerprint) == 8
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == Token("one-secret", "renamed").fingerprint
    assert one.fingerprint not in one.secret


@pytest.mark.parametrize(
    ("authorization", "own", "token"),
    [
        (None, None, None),
        ("", "", None),
        ("Bearer", None, None),
        ("Bearer  ", " ", None),
        ("Bearer one", None, "one"),
        ("bEARER   one  ", None, "one"),
        ("Bearer one two", None, "one two"),
        ("Bearer one", "two", "one"),
        ("Basic one", "two", "two"),
        ("Bearer", "two", "two"),
        ("one", None, None),
        (None, " two ", "two"),
    ],
)
def test_a_token_is_presented_in_either_header(
    authorization: str | None, own: str | None, token: str | None
) -> None:
    assert presented_token(authorization, own) == token

"""`heartbeat token`: which tokens there are, and replacing one without a gap."""

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pyramid.config import Configurator
from pyramid.router import Router

from data_flows.heartbeat.cli import main
from data_flows.heartbeat.security.token import Token, Tokens, read_tokens

FIRST, SECOND = "the-first-token-of-the-file", "the-second-token-of-the-file"
SETTING = "the-token-of-the-setting"
Command = Callable[..., Result]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Make a token file with a comment and two tokens."""
    file = tmp_path / "beat.token"
    file.write_text(f"# the schedulers\n{FIRST} cron\n\n{SECOND}\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def token(tmp_path: Path, file: Path, database_url: str) -> Command:
    """Call `heartbeat token`; no command but `show` may print a secret."""

    def call(*arguments: str, **settings: str) -> Result:
        given = {
            "use": "egg:data_flows",
            "sqlalchemy.url": database_url.replace("%", "%%"),
            "heartbeat.token_file": str(file),
            "heartbeat.operator_token_file": str(tmp_path / "var" / "operator.token"),
            **settings,
        }
        lines = [f"{name} = {value}" for name, value in given.items()]
        ini = tmp_path / "app.ini"
        ini.write_text("\n".join(["[app:main]", *lines, ""]))
        result = CliRunner().invoke(main, ["token", *arguments, "-c", str(ini)])
        secrets = [each.secret for each in read_tokens(file)]
        if arguments[0] != "show":
            for secret in (FIRST, SECOND, SETTING, *secrets):
                assert secret not in result.output
        return result

    return call


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def fingerprint(secret: str) -> str:
    return Token(secret).fingerprint


def test_tokens_are_listed_by_role_name_and_fingerprint(token: Command, file: Path) -> None:
    result = token("list", "--json", **{"heartbeat.operator_token": SETTING})

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == [
        {
            "role": "beat",
            "fingerprint": fingerprint(FIRST),
            "name": "cron",
            "where": str(file),
        },
        {"role": "beat", "fingerprint": fingerprint(SECOND), "name": "", "where": str(file)},
        {
            "role": "operator",
            "fingerprint": fingerprint(SETTING),
            "name": "",
            "where": "environment or .ini file",
        },
    ]
    assert fingerprint(FIRST) in token("list").output


def test_show_prints_the_newest_token_and_nothing_else(token: Command, file: Path) -> None:
    file.write_text(f"{FIRST}\n# the next one\n{SECOND} a name of words\n# {SETTING}\n\n")

    assert token("show").output == f"{SECOND}\n"
    assert token("rotate", "--name", "cron 2026").exit_code == 0
    assert token("show", "--role", "beat").output == f"{read_tokens(file)[-1].secret}\n"


def test_show_prints_the_token_of_the_setting_unless_the_file_has_one(
    token: Command, file: Path
) -> None:
    setting = {"heartbeat.operator_token": SETTING}

    assert token("show", "--role", "operator", **setting).output == f"{SETTING}\n"
    assert token("show", **{"heartbeat.token": SETTING}).output == f"{SECOND}\n"
    file.write_text("# none\n")
    assert token("show", **{"heartbeat.token": SETTING}).output == f"{SETTING}\n"


def test_show_without_a_token_is_one_line_that_names_the_solution(
    token: Command, file: Path, tmp_path: Path
) -> None:
    empty = token("show", "--role", "operator")
    nowhere = token("show", **{"heartbeat.token_file": ""})
    file.write_bytes(b"\xff\xfe\n")
    unreadable = token("show")

    assert [each.exit_code for each in (empty, nowhere, unreadable)] == [1, 1, 1]
    assert [each.stdout for each in (empty, nowhere, unreadable)] == ["", "", ""]
    assert empty.stderr == (
        "Error: there is no token for the role operator: add one with "
        f"`heartbeat token rotate -c {tmp_path}/app.ini --role operator`\n"
    )
    assert nowhere.stderr == (
        "Error: there is no token for the role beat: set heartbeat.token_file\n"
    )
    assert unreadable.stderr.startswith(f"Error: {file} cannot be read as text")


def talkative(_global_config: dict[str, str], **settings: Any) -> Router:
    """Make an application that prints while it starts."""
    sys.stdout.write("welcome\n")
    with Configurator(settings=settings) as config:
        config.include("data_flows.heartbeat")
        app: Router = config.make_wsgi_app()
        return app


def test_show_keeps_what_the_application_prints_out_of_the_token(token: Command) -> None:
    result = token("show", use=f"call:{__name__}:talkative")

    assert result.stdout == f"{SECOND}\n"
    assert "welcome" in result.stderr


def test_rotate_adds_a_token_and_states_what_to_change_where(
    token: Command, file: Path, tmp_path: Path
) -> None:
    tokens = Tokens(file=file)
    assert tokens.match(FIRST)

    result = token("rotate", "--name", "cron  2026")

    assert result.exit_code == 0, result.output
    *_, added = read_tokens(file)
    assert len(added.secret) >= 32
    assert added.name == "cron 2026"
    assert file.read_text().startswith(f"# the schedulers\n{FIRST} cron\n\n{SECOND}\n")
    assert mode(file) == 0o600
    assert list(file.parent.glob(".beat*")) == []
    # All are valid meanwhile, at once and in the running application.
    assert all(map(tokens.match, (FIRST, SECOND, added.secret)))
    assert added.fingerprint in result.output
    assert "give it to the scheduler" in result.output
    assert f"heartbeat token show -c {tmp_path}/app.ini --role beat" in result.output
    for old in (FIRST, SECOND):
        assert f"--role beat --remove {fingerprint(old)}" in result.output


def test_rotate_removes_the_old_token_on_request(token: Command, file: Path) -> None:
    tokens = Tokens(file=file)
    assert tokens.match(FIRST)

    result = token("rotate", "--remove", fingerprint(FIRST))

    assert result.exit_code == 0, result.output
    assert file.read_text() == f"# the schedulers\n\n{SECOND}\n"
    assert mode(file) == 0o600
    assert tokens.match(FIRST) is None
    assert tokens.match(SECOND)


def test_a_fingerprint_that_is_not_there_removes_nothing(token: Command, file: Path) -> None:
    before = file.read_text()

    result = token("rotate", "--remove", "00000000")

    assert result.exit_code == 1
    assert "heartbeat token list" in result.output
    assert file.read_text() == before


def test_the_operators_file_and_its_folder_are_made(token: Command, tmp_path: Path) -> None:
    result = token("rotate", "--role", "operator")

    file = tmp_path / "var" / "operator.token"
    (made,) = read_tokens(file)
    assert result.exit_code == 0, result.output
    assert made.secret not in result.output
    assert "give it to the operators" in result.output
    assert (mode(file), mode(file.parent)) == (0o600, 0o700)


def test_a_file_that_others_could_read_is_closed(token: Command, file: Path) -> None:
    file.chmod(0o644)

    assert token("rotate").exit_code == 0
    assert mode(file) == 0o600


def test_the_link_to_a_file_stays_a_link(token: Command, file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.token"
    link.symlink_to(file)

    assert token("rotate", **{"heartbeat.token_file": str(link)}).exit_code == 0

    assert link.is_symlink()
    assert len(read_tokens(file)) == 3


def test_a_name_can_hold_no_second_token(token: Command, file: Path) -> None:
    token("rotate", "--name", "cron\nanother-token-of-mine")

    assert len(read_tokens(file)) == 3


def test_a_token_of_the_setting_is_reported(token: Command) -> None:
    assert "environment or the .ini file" in token("rotate", **{"heartbeat.token": SETTING}).output


def test_rotate_without_a_file_is_an_error(token: Command) -> None:
    result = token("rotate", **{"heartbeat.token_file": "", "heartbeat.token": SETTING})

    assert result.exit_code == 1
    assert "heartbeat.token_file is not set" in result.output


def test_a_file_that_is_not_text_is_not_changed(token: Command, file: Path) -> None:
    file.write_bytes(b"\xff\xfe\n")

    result = token("rotate")

    assert result.exit_code == 1
    assert "cannot be read as text" in result.output
    assert file.read_bytes() == b"\xff\xfe\n"

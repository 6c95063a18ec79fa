"""The commands `heartbeat token list`, `show` and `rotate`."""

import os
import secrets
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import click

from ...cli.application import application, config_option
from ...cli.output import json_option, print_json, print_table
from ...core import Heartbeat
from ...errors import DataFlowError
from ...security.token import Token, Tokens, tokens_in

role_option = click.option(
    "--role",
    type=click.Choice(["beat", "operator"]),
    default="beat",
    help="Whose tokens: the scheduler's, which may only beat, or the operators'.",
)


@click.group()
def token() -> None:
    """List the tokens, print the current one, or replace one."""


@token.command("list")
@config_option
@json_option
def list_tokens(config: str, *, as_json: bool) -> None:
    """List the tokens by role, name and fingerprint."""
    rows = []
    with application(config) as heartbeat:
        for role, tokens in _by_role(heartbeat).items():
            for each in tokens.all():
                row = {"role": role, "fingerprint": each.fingerprint, "name": each.name}
                is_set = each.secret == tokens.value
                row["where"] = "environment or .ini file" if is_set else str(tokens.file)
                rows.append(row)
    if as_json:
        print_json(rows)
    else:
        print_table("tokens", rows)


@token.command("show")
@config_option
@role_option
def show_token(config: str, role: str) -> None:
    """Print the role's newest token and nothing else: the one that `rotate` has added last."""
    # The output of the application at start must not end up in a header.
    with redirect_stdout(sys.stderr), application(config) as heartbeat:
        tokens = _by_role(heartbeat)[role]
    if tokens.file:
        _lines(tokens.file)  # raises an error if the file cannot be read
    if not (valid := tokens.all()):
        fix = f"set heartbeat.{_setting(role)}"
        if tokens.file:
            fix = f"add one with `heartbeat token rotate -c {config} --role {role}`"
        raise DataFlowError(f"there is no token for the role {role}: {fix}")
    click.echo(valid[-1].secret)


@token.command()
@config_option
@role_option
@click.option("--name", metavar="NAME", help="The name of the new token in the history.")
@click.option("--remove", metavar="FINGERPRINT", help="Remove this token instead of adding one.")
def rotate(config: str, role: str, name: str | None, remove: str | None) -> None:
    """Add a new token to the role's file, or remove one with --remove.

    The old and the new token are both valid until then, so that no call is refused. The running
    application reads the changed file at once.
    """
    with application(config) as heartbeat:
        tokens = _by_role(heartbeat)[role]
    file = tokens.file
    if file is None:
        message = "is not set: change the token in the environment or the .ini file"
        raise DataFlowError(f"heartbeat.{_setting(role)} {message}")
    lines = _lines(file)
    if remove is not None:
        kept = [line for line in lines if remove not in _fingerprints(line)]
        if kept == lines:
            message = f"{file} has no token {remove}: `heartbeat token list` shows which it has"
            raise DataFlowError(message)
        _write(file, kept)
        click.echo(f"removed the token {remove} from {file}")
        return
    made = Token(secrets.token_urlsafe(32), " ".join((name or "").split()))
    _write(file, [*lines, f"{made.secret} {made.name}".strip()])
    who = "the scheduler" if role == "beat" else "the operators"
    click.echo(f"added the token {made.fingerprint} as the last line of {file}")
    click.echo(f"next: give it to {who}: heartbeat token show -c {config} --role {role}")
    for old in _fingerprints("\n".join(lines)):
        click.echo(f"then: heartbeat token rotate -c {config} --role {role} --remove {old}")
    if tokens.value:
        note = "the token in the environment or the .ini file stays valid until it is removed there"
        click.echo(f"note: {note}")


def _by_role(heartbeat: Heartbeat) -> dict[str, Tokens]:
    return {"beat": heartbeat.tokens, "operator": heartbeat.operator_tokens}


def _setting(role: str) -> str:
    return "token_file" if role == "beat" else "operator_token_file"


def _fingerprints(text: str) -> list[str]:
    return [each.fingerprint for each in tokens_in(text)]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise DataFlowError(f"{file} cannot be read as text: fix it, or move it away") from error


def _write(file: Path, lines: list[str]) -> None:
    """Replace the file in one step. Only its owner, who stays the same, can read it."""
    file = file.resolve()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as new:
        new.writelines(f"{line}\n" for line in lines)
    if file.exists() and os.geteuid() == 0:
        os.chown(name, file.stat().st_uid, file.stat().st_gid)
    Path(name).replace(file)

"""Commands about tokens: which there are, and replacing one without a gap."""

import os
import secrets
import tempfile
from pathlib import Path

import click

from ..errors import DataFlowError
from ..security.token import Token, read_tokens
from .application import application, config_option, json_option, show

role_option = click.option(
    "--role",
    type=click.Choice(["beat", "operator"]),
    default="beat",
    show_default=True,
    help="Whose tokens: the scheduler's, which may only beat, or the operators'.",
)


@click.group()
def token() -> None:
    """List the tokens, or replace one. No command shows a token."""


@token.command("list")
@config_option
@json_option
def list_tokens(config: str, *, as_json: bool) -> None:
    """List the tokens by role, name and fingerprint."""
    with application(config) as heartbeat:
        rows = [
            {
                "role": role,
                "fingerprint": each.fingerprint,
                "name": each.name,
                "where": "environment or .ini file" if each.secret == tokens.value else tokens.file,
            }
            for role, tokens in (
                ("beat", heartbeat.tokens),
                ("operator", heartbeat.operator_tokens),
            )
            for each in tokens.all()
        ]
    show("tokens", rows, as_json=as_json)


@token.command()
@config_option
@role_option
@click.option("--name", default="", help="What the new token goes by in the history.")
@click.option("--remove", metavar="FINGERPRINT", help="Remove this token instead of making one.")
def rotate(config: str, role: str, name: str, remove: str | None) -> None:
    """Add a new token to the role's file; remove the old one when told.

    Both are valid in between, so that nothing is refused meanwhile. The running application sees
    the change at once.
    """
    with application(config) as heartbeat:
        if role == "beat":
            tokens, setting, who = heartbeat.tokens, "token_file", "the scheduler"
        else:
            tokens, setting = heartbeat.operator_tokens, "operator_token_file"
            who = "whoever operates this"
    file = tokens.file
    if file is None:
        raise DataFlowError(
            f"heartbeat.{setting} is not set: a token that is set elsewhere is changed there"
        )
    if remove is not None:
        _remove(file, remove)
        click.echo(f"removed the token {remove} from {file}")
        return
    before = read_tokens(file)
    made = Token(secrets.token_urlsafe(32), " ".join(name.split()))
    lines = _lines(file) if file.exists() else []
    _write(file, [*lines, f"{made.secret} {made.name}".strip()])
    click.echo(f"added the token {made.fingerprint} as the last line of {file}")
    click.echo(f"next: give it to {who}: tail -n 1 {file} | cut -d ' ' -f 1")
    for old in before:
        click.echo(
            f"then: heartbeat token rotate -c {config} --role {role} --remove {old.fingerprint}"
        )
    if tokens.value:
        click.echo(
            "note: the token of the environment or the .ini file is valid until removed there"
        )


def _remove(file: Path, fingerprint: str) -> None:
    found = [each for each in read_tokens(file) if each.fingerprint == fingerprint]
    if not found:
        raise DataFlowError(
            f"{file} has no token {fingerprint}: `heartbeat token list` shows which it has"
        )
    kept = [line for line in _lines(file) if line.split(maxsplit=1)[:1] != [found[0].secret]]
    _write(file, kept)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataFlowError(f"{file} cannot be read as text: mend it, or move it away") from error


def _write(file: Path, lines: list[str]) -> None:
    """Replace the file in one step, readable by its owner alone, who stays the same."""
    file = file.resolve()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as new:
        new.writelines(f"{line}\n" for line in lines)
    if file.exists() and os.geteuid() == 0:
        os.chown(name, file.stat().st_uid, file.stat().st_gid)
    Path(name).replace(file)

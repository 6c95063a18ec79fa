"""What users change in the .ini files merges with what the template changes there."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from conftest import PROJECT
from test_hooks import Cruft, cruft, place

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Render, Tools

__all__ = ["cruft", "place"]

# How lines begin that a user is likely to change; any other may be changed by the template.
OF_THE_USER = (
    *("project.name ", "pyramid.includes ", "debugtoolbar.hosts ", "sqlalchemy.url ", "heartbeat."),
    *("listen ", "threads ", "max_request_", "connection_limit ", "channel_timeout "),
    *("cleanup_interval ", "asyncore_use_poll "),
)
PLACE_FOR_MORE = "# More settings, as README.md lists them:\n\n"


def change(ini: str, *, as_user: bool) -> str:
    """Change the lines that are the user's, or all others but blank ones and names of sections."""
    changed = []
    before = ""
    for line in ini.splitlines():
        is_level_alone = line.startswith("level ") and not before
        is_of_the_user = line.startswith(OF_THE_USER) or is_level_alone
        fixed = not line or line.startswith("[")
        changed.append(line if fixed or is_of_the_user != as_user else f"{line} changed")
        before = line
    return "\n".join([*changed, ""])


@pytest.mark.parametrize("name", ["development.ini", "production.ini", "testing.ini"])
def test_no_line_of_the_users_touches_one_of_the_templates(
    render: Render, tmp_path: Path, name: str
) -> None:
    base = (render() / name).read_text()
    ours, theirs = change(base, as_user=True), change(base, as_user=False)
    ours = ours.replace(PLACE_FOR_MORE, f"{PLACE_FOR_MORE}heartbeat.workers = 8\n\n")
    files = {"ours": ours, "base": base, "theirs": theirs}
    for file, text in files.items():
        (tmp_path / file).write_text(text)

    merged = subprocess.run(
        ["git", "merge-file", "-p", *files],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
    )

    assert merged.returncode == 0, merged.stdout
    added = {*ours.splitlines()} - {*base.splitlines()}
    changed = {*theirs.splitlines()} - {*base.splitlines()}
    assert {*merged.stdout.splitlines()} >= added | changed
    if name != "testing.ini":
        assert len(added) >= 9
        assert "heartbeat.workers = 8" in added


def test_cruft_update_merges_a_port_with_a_change_of_the_server(cruft: Cruft, tools: Tools) -> None:
    ini = PROJECT / "development.ini"
    template = cruft.place.template / PROJECT.name / ini.name
    template.write_text(ini.read_text().replace("#server\n", "#waitress\n"))
    cruft.commit(cruft.place.template)
    assert cruft.create(cruft.place.folder).status == 0
    mine = cruft.place.project / ini.name
    cruft.git(cruft.place.project, "init", "--quiet")
    cruft.commit(cruft.place.project)
    mine.write_text(
        mine.read_text().replace(":6543", ":8080").replace("threads = 8", "threads = 4")
    )
    cruft.commit(cruft.place.project)
    template.write_text(ini.read_text())
    cruft.commit(cruft.place.template)

    result = cruft(cruft.place.project, "update", "--skip-apply-ask")

    assert result.status == 0, result.everything
    text = mine.read_text()
    assert "use = egg:data_flows#server\n" in text
    assert "listen = localhost:8080\n" in text
    assert "threads = 4\n" in text
    assert "<<<<<<<" not in text
    assert not list(cruft.place.project.rglob("*.rej"))
    assert tools.calls()

"""The engine's MANIFEST is what its files are."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from conftest import PROJECT, TEMPLATE

ENGINE = PROJECT / "src" / PROJECT.name / "heartbeat"
SCRIPT = TEMPLATE / "scripts" / "manifest.py"


def test_the_manifest_is_current() -> None:
    """Says what mends it: `make manifest`."""
    code = "import manifest; print(manifest.manifest(), end='')"
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=SCRIPT.parent,
        capture_output=True,
        check=True,
        text=True,
    )

    assert (ENGINE / "MANIFEST").read_text(encoding="utf-8") == done.stdout, "run `make manifest`"


def test_a_checkout_keeps_the_line_ends_that_make_and_the_manifest_need(tmp_path: Path) -> None:
    for tree in (TEMPLATE, PROJECT):
        shutil.copy(tree / ".gitattributes", tmp_path)
        for name, content in (("Makefile", b"all:\n\ttrue\n"), ("logo.png", b"\0\r\n")):
            (tmp_path / name).write_bytes(content)
        git = [
            "git",
            "-c",
            "core.autocrlf=true",
            "-c",
            "core.eol=crlf",
            "-c",
            "core.safecrlf=false",
        ]
        subprocess.run([*git, "init", "--quiet"], cwd=tmp_path, check=True)
        subprocess.run([*git, "add", "--all"], cwd=tmp_path, check=True)
        for name in ("Makefile", "logo.png"):
            (tmp_path / name).unlink()
        subprocess.run([*git, "checkout", "--", "."], cwd=tmp_path, check=True)

        assert (tmp_path / "Makefile").read_bytes() == b"all:\n\ttrue\n"
        assert (tmp_path / "logo.png").read_bytes() == b"\0\r\n"


def test_the_manifest_has_the_form_that_sha256sum_checks() -> None:
    lines = (ENGINE / "MANIFEST").read_text(encoding="utf-8").splitlines()

    names = [line.partition("  ")[2] for line in lines]
    assert names == sorted(names)
    assert "settings.py" in names
    assert "VERSION" in names
    assert not [name for name in names if not (ENGINE / Path(name)).is_file()]
    assert not [name for name in names if name.endswith(".pyc") or name == "MANIFEST"]
    assert {len(line.partition("  ")[0]) for line in lines} == {64}

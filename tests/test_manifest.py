"""The engine's MANIFEST is what its files are."""

from __future__ import annotations

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


def test_the_manifest_has_the_form_that_sha256sum_checks() -> None:
    lines = (ENGINE / "MANIFEST").read_text(encoding="utf-8").splitlines()

    names = [line.partition("  ")[2] for line in lines]
    assert names == sorted(names)
    assert "settings.py" in names
    assert "VERSION" in names
    assert not [name for name in names if not (ENGINE / Path(name)).is_file()]
    assert not [name for name in names if name.endswith(".pyc") or name == "MANIFEST"]
    assert {len(line.partition("  ")[0]) for line in lines} == {64}

"""What the template's Makefile prints while it makes .venv, most of the time of a first command."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from conftest import TEMPLATE, Child

if TYPE_CHECKING:
    from pathlib import Path

# Plays Python: prints its steps, makes .venv with itself, and lists one tool.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
  "-m venv"*) echo "STEP venv"; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  "-m pip"*) echo "STEP pip" ;;
  *) echo "a-tool>=1" ;;
esac
"""


def test_each_step_of_making_the_tools_is_printed_before_it(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(TEMPLATE / name, tmp_path)
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if "MAKE" not in key}

    made = Child(["make", "setup", f"SYSTEM_PYTHON={python}"], tmp_path, environment).finish()
    again = Child(["make", "setup", f"SYSTEM_PYTHON={python}"], tmp_path, environment).finish()

    making, venv, installing, pip, done = made.output.splitlines()
    assert made.status == 0, made.everything
    assert (venv, pip) == ("STEP venv", "STEP pip")
    assert "making .venv" in making
    assert "a-tool>=1" in installing
    assert "installed" in done
    assert "==" not in again.output

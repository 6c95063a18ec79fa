"""Write the engine's MANIFEST: the SHA-256 and the path of each of its files, sorted.

`heartbeat check` reads it in the rendered project, and so does `sha256sum --check`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
ENGINE = PROJECT / "src" / PROJECT.name / "heartbeat"


def manifest() -> str:
    """Give what MANIFEST has to say of the engine as it is now."""
    found = {
        path.relative_to(ENGINE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in ENGINE.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and path.name != "MANIFEST"
    }
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(found.items()))


if __name__ == "__main__":
    (ENGINE / "MANIFEST").write_text(manifest(), encoding="utf-8")

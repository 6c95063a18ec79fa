r"""Write the engine's MANIFEST: the SHA-256 and the path of each of its files, sorted.

`heartbeat check` reads it in the rendered project, and so does `sha256sum --check`. Each digest is
that of the file with \n at its line ends, whatever the checkout has.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
ENGINE = PROJECT / "src" / PROJECT.name / "heartbeat"


def manifest() -> str:
    """Return the content of MANIFEST for the engine as it is now."""
    found = {
        path.relative_to(ENGINE).as_posix(): digest(path)
        for path in ENGINE.rglob("*")
        if path.is_file() and path.name != "MANIFEST" and not is_left_behind(path)
    }
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(found.items()))


def digest(path: Path) -> str:
    """Return the SHA-256 of a file with normalised line ends."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def is_left_behind(path: Path) -> bool:
    """Return whether a file was left there by Python, an editor or a desktop."""
    hidden = any(part.startswith(".") for part in path.relative_to(ENGINE).parts)
    return hidden or path.suffix == ".pyc" or path.name.endswith(("~", "#", ".orig", ".rej"))


if __name__ == "__main__":
    (ENGINE / "MANIFEST").write_text(manifest(), encoding="utf-8", newline="\n")

"""Compares the files of the engine with its MANIFEST."""

from hashlib import sha256
from pathlib import Path


def changed_files() -> list[str]:
    """Return the engine's files that differ from its MANIFEST, and those that were added.

    Line ends are ignored, since a checkout may convert them. So are hidden files, and files of a
    type that the engine does not have: editors, desktops and Python create those.
    """
    engine = Path(__file__).parents[2]
    if not (engine / "MANIFEST").is_file():
        return ["MANIFEST"]
    lines = (engine / "MANIFEST").read_text("utf-8").splitlines()
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    kinds = {Path(name).suffix for name in listed} - {""}
    found = {
        name.as_posix()
        for name in (path.relative_to(engine) for path in engine.rglob("*"))
        if name.suffix in kinds and not any(part.startswith(".") for part in name.parts)
    }
    names = sorted(listed.keys() | found)
    return [name for name in names if _digest(engine / name) != listed.get(name)]


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    return sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()

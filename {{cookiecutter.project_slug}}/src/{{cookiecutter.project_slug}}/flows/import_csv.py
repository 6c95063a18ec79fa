"""Load CSV files from an inbox folder into the database: the flow to copy for one of your own.

Upload a file elsewhere, then rename it into the inbox, so that no half-copied file is read. A run
that finds only broken new files fails, so that the history shows them until they are fixed.
"""

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from ..csv_reader import InvalidCsvError, find_problems, read_rows
from ..heartbeat import Run, flow
from ..models.csv_import import CsvFile, CsvRecord

BATCH_ROWS = 1_000
PROBLEMS_PER_FILE = 10


@flow(every="1m", configuration={"inbox": "var/inbox"})
def import_csv(run: Run) -> dict[str, Any]:
    """Load each new CSV file of the inbox folder into the database, once."""
    loaded: list[int] = []
    problems: list[str] = []
    for path in _csv_files(run.configuration.get("inbox")):
        # A name may hold bytes that are no text, which databases refuse.
        name = path.name.encode(errors="replace").decode()
        try:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                known_as = run.session.scalar(select(CsvFile.name).filter_by(sha256=sha256))
                if known_as is None:
                    _check(name, _lines(file, sha256))
                    with run.session.begin_nested():
                        loaded.append(_load(run.session, name, sha256, _lines(file, sha256)))
                elif known_as != name:
                    run.log.info("%s was loaded before, as %s", name, known_as)
        except FileNotFoundError:
            run.log.info("%s has been taken away", name)
        except OSError as error:
            problems.append(f"{name}: {error}")
        except InvalidCsvError as error:
            problems += error.args
    if problems and not loaded:
        raise InvalidCsvError(*problems)
    for problem in problems:
        run.log.warning("%s", problem)
    return {"files": len(loaded), "rows": sum(loaded), "problems": problems}


def _csv_files(inbox: object) -> list[Path]:
    """Return the CSV files of the folder `inbox` by name, without hidden ones."""
    fix = 'set "inbox" in the configuration of import_csv'
    if not isinstance(inbox, str) or not inbox:
        message = f'inbox is {inbox!r}, not a folder: {fix} to a path such as "var/inbox"'
        raise TypeError(message)
    folder = Path(inbox).absolute()
    if not folder.is_dir():
        message = f"there is no folder {folder}: create it, or {fix}"
        raise NotADirectoryError(message)
    named = (path for path in folder.iterdir() if path.suffix.lower() == ".csv")
    return sorted(path for path in named if path.is_file() and not path.name.startswith("."))


def _lines(file: BinaryIO, sha256: str) -> Iterator[str]:
    """Decode the file line by line; raise OSError at its end if that is not what was hashed."""
    file.seek(0)
    digest = hashlib.sha256()
    for number, line in enumerate(file):
        digest.update(line)
        yield line.decode("utf-8" if number else "utf-8-sig", "surrogateescape")
    if digest.hexdigest() != sha256:
        message = "changed while it was read; upload it elsewhere, then rename it into the inbox"
        raise OSError(message)


def _check(name: str, lines: Iterator[str]) -> None:
    """Raise InvalidCsvError if the file has problems, with the first of them."""
    found = (f"{name}, {problem}" for problem in find_problems(lines))
    problems = list(islice(found, PROBLEMS_PER_FILE))
    if more := sum(1 for _ in found):
        problems.append(f"{name}: and {more} more")
    if problems:
        raise InvalidCsvError(*problems)


def _load(session: Session, name: str, sha256: str, lines: Iterator[str]) -> int:
    """Store a file that was checked, batch by batch, and return its number of records."""
    file = CsvFile(name=name, sha256=sha256, row_count=0)
    session.add(file)
    session.flush()
    rows = ((number, row) for number, row in read_rows(lines) if row)
    _, columns = next(rows)
    records = (
        {"file_id": file.id, "row_number": number, "data": dict(zip(columns, row, strict=True))}
        for number, row in rows
    )
    while batch := list(islice(records, BATCH_ROWS)):
        session.execute(insert(CsvRecord), batch)
        file.row_count += len(batch)
    return file.row_count

"""What `import_csv` promises, shown with real files and the project's database."""

import hashlib
from io import BufferedReader
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from {{cookiecutter.project_slug}}.flows.import_csv import (
    import_csv,
)
from {{cookiecutter.project_slug}}.heartbeat.optional.testing import (
    RunFlow,
)
from {{cookiecutter.project_slug}}.models.csv_import import (
    CsvFile,
    CsvRecord,
)


def stored(dbsession: Session) -> list[tuple[int, dict[str, str]]]:
    """Return all stored records as row number and data."""
    columns = select(CsvRecord.row_number, CsvRecord.data).order_by(CsvRecord.id)
    return [(number, data) for number, data in dbsession.execute(columns)]


def stored_files(dbsession: Session) -> list[tuple[str, int]]:
    """Return all stored files as name and number of records."""
    columns = select(CsvFile.name, CsvFile.row_count).order_by(CsvFile.id)
    return [(name, count) for name, count in dbsession.execute(columns)]


def test_a_new_file_is_loaded_row_by_row(
    inbox: Path, run_flow: RunFlow, dbsession: Session
) -> None:
    (inbox / "birds.csv").write_text("name,legs\nheron,2\nowl,2\n")

    run = run_flow(import_csv)

    assert run.error is None
    assert run.result == {"files": 1, "rows": 2, "problems": []}
    assert stored_files(dbsession) == [("birds.csv", 2)]
    assert stored(dbsession) == [
        (2, {"name": "heron", "legs": "2"}),
        (3, {"name": "owl", "legs": "2"}),
    ]


def test_a_file_that_was_loaded_is_not_loaded_again(
    inbox: Path, run_flow: RunFlow, dbsession: Session
) -> None:
    (inbox / "birds.csv").write_text("name\nheron\n")
    run_flow(import_csv)

    run = run_flow(import_csv)

    assert run.result == {"files": 0, "rows": 0, "problems": []}
    assert stored_files(dbsession) == [("birds.csv", 1)]


def test_the_same_content_under_another_name_is_not_loaded_again(
    inbox: Path, run_flow: RunFlow, dbsession: Session
) -> None:
    (inbox / "birds.csv").write_text("name\nheron\n")
    (inbox / "copy.csv").write_text("name\nheron\n")

    run = run_flow(import_csv)

    assert stored_files(dbsession) == [("birds.csv", 1)]
    assert "copy.csv was loaded before, as birds.csv" in run.log


def test_a_file_with_new_content_is_loaded_under_its_old_name(
    inbox: Path, run_flow: RunFlow, dbsession: Session
) -> None:
    (inbox / "birds.csv").write_text("name\nheron\n")
    run_flow(import_csv)
    (inbox / "birds.csv").write_text("name\nheron\nowl\n")

    run_flow(import_csv)

    assert stored_files(dbsession) == [("birds.csv", 1), ("birds.csv", 2)]


def test_only_visible_csv_files_are_read(
    inbox: Path, run_flow: RunFlow, dbsession: Session
) -> None:
    for name in (".half.csv", "notes.txt", "BIRDS.CSV"):
        (inbox / name).write_text(f"name\n{name}\n")
    (inbox / "folder.csv").mkdir()

    run_flow(import_csv)

    assert stored_files(dbsession) == [("BIRDS.CSV", 1)]


def test_a_header_alone_is_a_file_without_records(
    inbox: Path, run_flow: RunFlow, dbsession: Session
) -> None:
    (inbox / "birds.csv").write_text("name,legs\n")

    assert run_flow(import_csv).result == {"files": 1, "rows": 0, "problems": []}
    assert stored_files(dbsession) == [("birds.csv", 0)]


@pytest.mark.parametrize(
    ("content", "records"),
    [
        pytest.param(b"\xef\xbb\xbfname\nowl\n", [(2, {"name": "owl"})], id="byte order mark"),
        pytest.param(
            b'name\n"an\nowl"\nkite\n',
            [(2, {"name": "an\nowl"}), (3, {"name": "kite"})],
            id="new line in a value",
        ),
        pytest.param(b"name\r\n\r\nowl", [(3, {"name": "owl"})], id="blank row"),
        pytest.param(
            b'name\n"an ""owl"", asleep"\n',
            [(2, {"name": 'an "owl", asleep'})],
            id="quotes and comma in a value",
        ),
        pytest.param("name\nKäuzchen 🦉\n".encode(), [(2, {"name": "Käuzchen 🦉"})], id="Unicode"),
        pytest.param(b"a;b\n1,5;2\n", [(2, {"a": "1,5", "b": "2"})], id="semicolons"),
        pytest.param(b"a;b, c\n1;2\n", [(2, {"a": "1", "b, c": "2"})], id="a comma in the header"),
        pytest.param(b"a\tb\r\n1\t2\r\n", [(2, {"a": "1", "b": "2"})], id="tabs"),
        pytest.param(b"a|b\n1|2\n", [(2, {"a": "1", "b": "2"})], id="pipes"),
        pytest.param(b'"a,b";c\n1;2\n', [(2, {"a,b": "1", "c": "2"})], id="a comma in quotes"),
        pytest.param(b"sep=;\na;b,c\n1;2,3\n", [(2, {"a": "1", "b,c": "2,3"})], id="sep="),
        pytest.param(
            b'\xef\xbb\xbf"sep=\t"\r\na\tb\r\n1\t2\r\n',
            [(2, {"a": "1", "b": "2"})],
            id="sep= in quotes after a byte order mark",
        ),
        pytest.param(b"a\n1;2\n", [(2, {"a": "1;2"})], id="a delimiter outside the header"),
        pytest.param(
            b"a,b\n1," + b"x" * 200_000 + b"\n",
            [(2, {"a": "1", "b": "x" * 200_000})],
            id="a long value",
        ),
    ],
)
def test_a_value_is_stored_as_it_was_written(
    content: bytes,
    records: list[tuple[int, dict[str, str]]],
    inbox: Path,
    run_flow: RunFlow,
    dbsession: Session,
) -> None:
    (inbox / "birds.csv").write_bytes(content)

    run_flow(import_csv)

    assert stored(dbsession) == records


def test_a_file_longer_than_a_batch_is_loaded_whole(
    inbox: Path, run_flow: RunFlow, dbsession: Session
) -> None:
    (inbox / "many.csv").write_text("n\n" + "".join(f"{n}\n" for n in range(2_500)))

    run = run_flow(import_csv)

    assert run.result == {"files": 1, "rows": 2_500, "problems": []}
    numbers = func.count(), func.min(CsvRecord.row_number), func.max(CsvRecord.row_number)
    assert dbsession.execute(select(*numbers)).one() == (2_500, 2, 2_501)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(b"", "row 1: the file is empty", id="empty file"),
        pytest.param(b"\n\n", "row 1: the file is empty", id="blank rows alone"),
        pytest.param(b"a,b\n1,2\n3,\xe9\n", "row 3: byte 0xe9 is not text", id="not UTF-8"),
        pytest.param(b"a,\xe9\n1,2\n", "row 1: byte 0xe9 is not text", id="header not UTF-8"),
        pytest.param(b"a,b\n1,\0\n", "row 2: byte 0x00 is not text", id="NUL"),
        pytest.param(b"a,b\n1,2\n3\n", "row 3: 1 instead of 2 fields", id="row too short"),
        pytest.param(b"a,b\n1,2,3\n", "row 2: 3 instead of 2 fields", id="row too long"),
        pytest.param(b'a,b\n"1\n2",3\n4\n', "row 3: 1 instead of 2 fields", id="after a new line"),
        pytest.param(b"a,b,a\n1,2,3\n", "row 1: 2 columns are called 'a'", id="duplicate column"),
        pytest.param(b"a, \n1,2\n", "row 1: a column has no name", id="column without a name"),
        pytest.param(b'a,b\n1,"2\n3,4\n', "row 2: a quote is not closed", id="quote not closed"),
        pytest.param(b'a,b\n1,"2"3\n', "row 2: text follows a closing quote", id="after a quote"),
        pytest.param(b"a,b\n1,2\r3,4\n", "row 2: a line ends with CR alone", id="CR alone"),
        pytest.param(b"a;b\n1;2\n3\n", "row 3: 1 instead of 2 fields", id="broken, semicolons"),
        pytest.param(b"a,b;c\n1,2;3\n", "row 1: the delimiter may be", id="unclear delimiter"),
        pytest.param(b"sep=\na;b\n1;2\n", "row 1: sep= names no delimiter", id="empty sep="),
        pytest.param(
            b"a,b\n1," + b"x" * 16_777_217 + b"\n",
            "row 2: a value is longer than 16,777,216 characters",
            id="value too long",
        ),
    ],
)
def test_a_broken_file_fails_the_run_with_row_and_fix(
    content: bytes, problem: str, inbox: Path, run_flow: RunFlow, dbsession: Session
) -> None:
    (inbox / "broken.csv").write_bytes(content)

    run = run_flow(import_csv)

    assert str(run.error).startswith(f"broken.csv, {problem}")
    assert "; " in str(run.error)
    assert stored_files(dbsession) == []


def test_a_broken_file_holds_back_none_of_the_good_ones(
    inbox: Path, run_flow: RunFlow, dbsession: Session
) -> None:
    (inbox / "a-broken.csv").write_text("a,b\n1,2\n3\n")
    (inbox / "b-good.csv").write_text("a\n1\n")

    run = run_flow(import_csv)

    assert run.error is None
    assert [problem[:20] for problem in run.result["problems"]] == ["a-broken.csv, row 3:"]
    assert "a-broken.csv, row 3: 1 instead of 2 fields" in run.log
    assert stored_files(dbsession) == [("b-good.csv", 1)]


def test_a_broken_file_fails_each_run_until_it_is_fixed(
    inbox: Path, run_flow: RunFlow, dbsession: Session
) -> None:
    (inbox / "birds.csv").write_text("a,b\n1\n")
    assert all(run_flow(import_csv).error for _ in range(2))

    (inbox / "birds.csv").write_text("a,b\n1,2\n")

    assert run_flow(import_csv).error is None
    assert stored(dbsession) == [(2, {"a": "1", "b": "2"})]


def test_of_many_problems_the_first_ten_are_listed(inbox: Path, run_flow: RunFlow) -> None:
    (inbox / "broken.csv").write_text("a,b\n" + "1\n" * 25)

    lines = str(run_flow(import_csv).error).splitlines()

    assert lines[9].startswith("broken.csv, row 11: ")
    assert lines[10:] == ["broken.csv: and 15 more"]


def test_a_missing_inbox_is_named_with_its_fix(inbox: Path, run_flow: RunFlow) -> None:
    inbox.rmdir()

    run = run_flow(import_csv)

    assert f"there is no folder {inbox}: create it, or set" in str(run.error)


def test_a_file_that_is_taken_away_meanwhile_is_passed_over(
    inbox: Path, run_flow: RunFlow, dbsession: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inbox / "a.csv").write_text("n\n1\n")
    (inbox / "b.csv").write_text("n\n2\n")
    open_path = Path.open

    def take_away_and_open(path: Path, *given: Any, **options: Any) -> object:
        if path.name == "a.csv":
            path.unlink()
        return open_path(path, *given, **options)

    monkeypatch.setattr(Path, "open", take_away_and_open)

    run = run_flow(import_csv)

    assert run.result == {"files": 1, "rows": 1, "problems": []}
    assert "a.csv has been taken away" in run.log
    assert stored_files(dbsession) == [("b.csv", 1)]


def test_a_file_that_grows_while_it_is_read_is_not_loaded(
    inbox: Path, run_flow: RunFlow, dbsession: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inbox / "birds.csv").write_text("name\nheron\n")
    file_digest = hashlib.file_digest

    def digest_and_grow(file: BufferedReader, name: str) -> object:
        digest = file_digest(file, name)
        (inbox / "birds.csv").write_text("name\nheron\nowl\n")
        return digest

    monkeypatch.setattr(hashlib, "file_digest", digest_and_grow)

    run = run_flow(import_csv)

    assert str(run.error).startswith("birds.csv: changed while it was read; upload it elsewhere")
    assert stored_files(dbsession) == []

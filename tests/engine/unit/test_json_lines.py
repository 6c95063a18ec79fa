"""Log lines in JSON are valid, in UTC, and without secrets of errors."""

import json
import logging
import sys

from data_flows.heartbeat.json_lines import JsonFormatter

FORMAT = "%(asctime)s %(levelname)s %(name)s %(threadName)s %(message)s"


def test_a_time_is_in_utc() -> None:
    record = logging.makeLogRecord({"msg": "hello", "created": 1_772_366_400.25})

    assert json.loads(JsonFormatter(FORMAT).format(record))["asctime"] == (
        "2026-03-01T12:00:00.250+00:00"
    )


def test_a_logged_error_has_its_backtrace_without_secrets() -> None:
    try:
        int("https://joe:hunter22@example.org")
    except ValueError:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": sys.exc_info()})

    line = JsonFormatter(FORMAT).format(record)

    assert "Traceback (most recent call last)" in json.loads(line)["exc_info"]
    assert "hunter22" not in line
    assert "\n" not in line


def test_control_characters_stay_escaped() -> None:
    record = logging.makeLogRecord({"msg": "a\x1b[2J\nb", "flow": "x\u202ey"})

    assert JsonFormatter(FORMAT).format(record).isprintable()


def test_members_that_json_cannot_hold_become_text() -> None:
    circular = list[object]()
    circular.append(circular)
    members = {"keys": {(1, 2): 3}, "circular": circular, "nan": float("nan"), "rows": 12}
    record = logging.makeLogRecord({"msg": "imported", "levelname": "INFO", **members})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    line = json.loads(JsonFormatter(FORMAT).format(record), parse_constant=refuse)

    assert (line["message"], line["levelname"], line["rows"]) == ("imported", "INFO", 12)
    assert (line["keys"], line["circular"], line["nan"]) == ("{(1, 2): 3}", "[[...]]", "nan")

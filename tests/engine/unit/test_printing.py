"""Text in terminals and log lines cannot control them."""

import logging

import pytest
from pydantic import TypeAdapter, ValidationError

from data_flows.heartbeat.definition import FlowName
from data_flows.heartbeat.log_context import log_context
from data_flows.heartbeat.printing import LineFormatter, printable

CHARACTERS = ["\x1b", "\x07", "\r", "\x7f", "\x9b", "\u202e", "\u200b", "\ufeff", "\xad"]
CHARACTERS += ["\u2028", "\u2066", "\U000e0041"]


@pytest.mark.parametrize("char", [*CHARACTERS, "\n", "\0", "\ud800"], ids=ascii)
def test_control_and_format_characters_are_escaped(char: str) -> None:
    assert printable(f"a{char}b") == f"a{char.encode('unicode_escape').decode()}b"


@pytest.mark.parametrize("text", ["", "Käuzchen 🦉", "名前\u3000\xa0", "a\\b"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("char", CHARACTERS, ids=ascii)
def test_a_flow_has_no_such_character_in_its_name(char: str) -> None:
    for name in (f"a{char}b", f"{char}b", f"a{char}"):
        with pytest.raises(ValidationError):
            TypeAdapter(FlowName).validate_python(name)


def test_no_message_of_a_log_begins_a_line_or_steers_the_terminal() -> None:
    record = logging.makeLogRecord({"msg": "failed: %s", "args": ("\x1b[2J\nINFO all is well",)})

    line = LineFormatter("%(levelname)s %(message)s").format(record)

    assert line == "Level None failed: \\x1b[2J\n    INFO all is well"


def test_a_line_of_a_flow_has_its_run_and_the_engines_own_does_not_repeat_it() -> None:
    formatter = LineFormatter("%(context)s%(message)s")
    members = {"msg": "hello", "flow": "import_csv", "run_id": 7}

    assert formatter.format(logging.makeLogRecord(members)) == "[import_csv, run 7] hello"
    assert formatter.format(logging.makeLogRecord({**members, "event": "run"})) == "hello"
    assert formatter.format(logging.makeLogRecord({"msg": "hello"})) == "hello"
    with log_context(flow="load"):
        assert formatter.format(logging.makeLogRecord({"msg": "hello"})) == "[load] hello"

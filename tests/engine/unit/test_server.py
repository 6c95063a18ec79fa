"""What the server runner changes in waitress is there to be changed."""

import re

import pytest
from waitress import parser

from data_flows.heartbeat.server import LINEAR_PATTERNS, use_linear_patterns


def test_the_patterns_of_the_installed_waitress_are_replaced(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in LINEAR_PATTERNS:
        monkeypatch.setattr(parser, name, getattr(parser, name))

    for _ in range(2):
        use_linear_patterns()

    for name, (slow, linear) in LINEAR_PATTERNS.items():
        assert linear in getattr(parser, name).pattern
        assert slow not in getattr(parser, name).pattern
    assert not caplog.messages


@pytest.mark.parametrize("name", LINEAR_PATTERNS)
def test_another_waitress_is_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for each in LINEAR_PATTERNS:
        monkeypatch.setattr(parser, each, getattr(parser, each))
    monkeypatch.setattr(parser, name, re.compile(rb".*"))

    use_linear_patterns()

    assert len(caplog.messages) == 1
    assert f"waitress.parser.{name} is unknown" in caplog.text
    assert "constraints.txt" in caplog.text

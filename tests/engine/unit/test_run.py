"""The log that is kept with a run: its limit, and its errors."""

import logging

import pytest

from data_flows.heartbeat.run_log import LONGEST_LOG, RunLog


@pytest.fixture
def run_log() -> RunLog:
    """Make the log of a run, apart from where the application's own lines go."""
    run_log = RunLog("orders")
    run_log.logger.propagate = False
    return run_log


def test_lines_are_kept_with_their_level(run_log: RunLog) -> None:
    run_log.logger.info("read %d rows", 3)
    run_log.logger.error("broken")

    lines = (run_log.text(list) or "").splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == ["INFO read 3 rows", "ERROR broken"]


def test_nothing_logged_is_nothing_kept(run_log: RunLog) -> None:
    assert run_log.text(list) is None


def test_secrets_are_taken_out(run_log: RunLog) -> None:
    run_log.logger.info("swordfish, password=hunter2")

    text = run_log.text(lambda: ["swordfish"]) or ""
    assert "***, password=***" in text


def test_lines_beyond_the_limit_are_counted(run_log: RunLog) -> None:
    for _ in range(3):
        run_log.logger.info("x" * LONGEST_LOG)
    run_log.logger.info("short")

    lines = (run_log.text(list) or "").splitlines()
    assert lines[0].endswith("INFO short")
    assert lines[1:] == ["(3 more lines)"]


def test_two_runs_of_a_flow_share_no_log() -> None:
    first, second = RunLog("orders"), RunLog("orders")

    first.logger.info("mine")

    assert "mine" in (first.text(list) or "")
    assert second.text(list) is None


def test_lines_go_where_the_application_logs_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    RunLog("orders").logger.info("both ways")

    assert "both ways" in caplog.messages


def test_a_bad_call_of_the_logger_does_not_break_the_flow(
    run_log: RunLog, capsys: pytest.CaptureFixture[str]
) -> None:
    run_log.logger.info("%d rows", "three")

    assert run_log.text(list) is None
    assert "Logging error" in capsys.readouterr().err

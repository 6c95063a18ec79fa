"""Events about flows, and their alarms: one message for each change of a flow's state."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.events import FlowDisabled
from data_flows.heartbeat.models import DataFlow, DataFlowRun
from data_flows.heartbeat.optional.alarms import (
    FlowAlarm,
    FlowFailed,
    FlowSlow,
    FlowSucceeded,
)

from ..conftest import FakeClock, MakeApp, heartbeat_of
from ..entrances import both_entrances, refusal
from ..factories import NOON, data_flow
from .alarmed import Listener, Switch
from .broken import NO_TIME
from .operated import SECRET, Call, as_operator

Post = Callable[..., Any]
Listen = Callable[..., Listener]
MINUTE, HOUR, DAY = 60, 3_600, 86_400


@pytest.fixture
def listen(make_app: MakeApp, post: Post, clock: FakeClock) -> Listen:
    """Make an application with subscribers of these kinds of events."""

    def make(*flows: Any, kinds: tuple[type, ...] = (FlowAlarm,), also: Any = None) -> Listener:
        listener = Listener(post, clock)

        def subscribe(config: Any) -> None:
            for kind in kinds:
                if also:
                    config.add_subscriber(also, kind)
                config.add_subscriber(listener.received.append, kind)

        listener.app = make_app(*flows, configure=subscribe, **SECRET)
        return listener

    return make


@pytest.fixture
def switch() -> Switch:
    """Make the flow of this test: its name is "orders"."""
    return Switch()


def orders(_run: Run) -> None:
    """Do nothing."""


def operate(listener: Listener) -> Call:
    """Return the calls of an operator."""
    return as_operator(listener.app)


@both_entrances
def test_each_run_is_an_event_after_its_commit(listen: Listen) -> None:
    switch, statuses = Switch(), list[str]()

    def look(happened: FlowSucceeded | FlowFailed) -> None:
        with heartbeat_of(listener.app).session() as session:
            status = select(DataFlowRun.status).where(DataFlowRun.id == happened.run.id)
            statuses.append(session.scalars(status).one())

    def orders(run: Run) -> None:
        switch.orders(run)

    listener = listen(orders, kinds=(FlowSucceeded, FlowFailed), also=look)
    listener.beat()
    switch.is_broken = False
    failed, succeeded = listener.beat()

    assert (type(failed), type(succeeded)) == (FlowFailed, FlowSucceeded)
    assert (failed.flow, failed.run.error_type) == ("orders", "LookupError")
    assert (succeeded.flow, succeeded.run.attempt) == ("orders", 1)
    assert statuses == ["failed", "success"]


def test_the_third_failure_in_a_row_is_an_alarm_and_the_next_success_ends_it(
    listen: Listen, switch: Switch, clock: FakeClock
) -> None:
    listener = listen(switch.orders)

    assert listener.beat(2) == []
    [failing] = listener.beat()
    began = clock.now()
    assert listener.beat(5) == [failing]
    switch.is_broken = False
    _, recovered = listener.beat()
    assert listener.beat(3) == [failing, recovered]

    assert listener.states() == ["failing", "recovered"]
    assert failing.text == (
        f"orders is failing: 3 failures in a row, the last one in run {failing.run_id}: "
        "LookupError: no such bird"
    )
    assert (failing.error_type, failing.error_message) == ("LookupError", "no such bird")
    assert failing.since == recovered.since == began
    assert recovered.text == "orders has recovered: it was failing since 2026-03-01 12:15 UTC"
    assert recovered.run_id is None


@both_entrances
def test_the_number_of_failures_and_the_reminders_are_options(
    listen: Listen, switch: Switch
) -> None:
    def orders(run: Run) -> None:
        switch.orders(run)

    listener = listen((orders, {"alert_after": 1, "remind_every": "1h", "every": "30m"}))

    listener.beat(6, every=30 * MINUTE)

    assert listener.states() == ["failing", "failing!", "failing!"]
    assert listener.received[1].text.startswith("orders is still failing: 3 failures in a row")


def test_a_slot_that_is_retried_is_no_alarm_until_it_is_given_up(
    listen: Listen, switch: Switch
) -> None:
    options = {"alert_after": 2, "retries": 3, "retry_delay": "1m", "every": "1h"}
    listener = listen((switch.orders, options))

    assert listener.beat(3, every=4 * MINUTE) == []
    [failing] = listener.beat(every=4 * MINUTE)

    assert "4 failures in a row" in failing.text


@both_entrances
def test_a_flow_without_a_success_in_time_is_stale_although_nothing_has_failed(
    listen: Listen, clock: FakeClock
) -> None:
    is_open = [True]
    options = {"expect_success_within": "2h", "when": lambda _run: is_open[0]}
    listener = listen((orders, options))
    listener.beat()
    is_open[0] = False

    assert listener.beat(23) == []
    [stale] = listener.beat()
    began = clock.now()
    listener.beat(23, every=HOUR)
    assert listener.states() == ["stale"]
    listener.beat(every=HOUR)
    is_open[0] = True
    listener.beat(2)

    assert listener.states() == ["stale", "stale!", "recovered"]
    assert stale.since == began
    assert stale.text == (
        "orders is stale: no success since 2026-03-01 12:05 UTC, but one is expected within 2h"
    )
    assert listener.received[1].text.startswith("orders is still stale")


def test_a_flow_that_never_succeeded_is_stale_after_its_creation(listen: Listen) -> None:
    held = {"when": lambda _run: "not yet", "expect_success_within": "10m"}
    listener = listen((orders, held))

    listener.beat(2)
    [stale] = listener.beat()

    assert stale.text == "orders is stale: no success yet, but one is expected within 10m"


def test_a_flow_that_an_operator_has_added_is_watched_too(
    listen: Listen,
) -> None:
    listener = listen((orders, {"expect_success_within": "10m", "when": lambda _run: False}))
    listener.beat()
    given = {"name": "eu", "handler": "orders", "every": "1h"}
    operate(listener)("POST", "/flows", given, status=201)

    listener.beat(3)

    assert {alarm.flow for alarm in listener.received} == {"orders", "eu"}
    assert len(listener.received) == 2


def test_a_disabled_flow_is_not_stale_and_has_its_whole_time_again_after_it_is_enabled(
    listen: Listen,
) -> None:
    held = {"when": lambda _run: False, "expect_success_within": "1h"}
    listener = listen((orders, held))
    call = operate(listener)
    listener.beat()
    call("PATCH", "/flows/orders", {"enabled": False}, status=200)
    assert listener.beat(3, every=HOUR) == []

    call("PATCH", "/flows/orders", {"enabled": True}, status=200)
    assert listener.beat(11) == []

    listener.beat(2)
    assert listener.states() == ["stale"]


def test_an_alarm_of_a_flow_that_was_paused_is_not_repeated(listen: Listen, switch: Switch) -> None:
    listener = listen(switch.orders)
    listener.beat(3)
    operate(listener)("PATCH", "/flows/orders", {"enabled": False}, status=200)
    listener.beat(3, every=DAY)
    operate(listener)("PATCH", "/flows/orders", {"enabled": True}, status=200)
    switch.is_broken = False

    listener.beat(2)

    assert listener.states() == ["failing", "recovered"]


def test_a_pause_by_the_engine_is_one_message_and_the_next_success_ends_it(
    listen: Listen, switch: Switch
) -> None:
    listener = listen((switch.orders, {"pause_after": 2, "alert_after": 2, "every": "1h"}))

    [paused] = listener.beat(2, every=HOUR)
    operate(listener)("PATCH", "/flows/orders", {"enabled": True}, status=200)
    switch.is_broken = False
    listener.beat(2)
    assert listener.states() == ["paused"]

    listener.beat(every=HOUR)
    assert listener.states() == ["paused", "recovered"]
    assert paused.text.startswith("orders is paused: paused after 2 failures in a row")


def test_each_pause_by_the_engine_is_a_message(listen: Listen, switch: Switch) -> None:
    listener = listen((switch.orders, {"pause_after": 1, "every": "1h"}))

    for _ in range(2):
        listener.beat(2, every=HOUR)
        operate(listener)("PATCH", "/flows/orders", {"enabled": True}, status=200)

    assert listener.states() == ["paused", "paused"]
    assert "the last of them run" in listener.received[1].text


def test_a_pause_whose_process_has_died_since_is_found_by_the_next_beat_of_another(
    make_app: MakeApp, post: Post, listen: Listen, switch: Switch, clock: FakeClock
) -> None:
    silent = make_app((switch.orders, {"pause_after": 2}))  # it raises no alarm
    for _ in range(2):
        clock.advance(300)
        post(silent)
    listener = listen((switch.orders, {"pause_after": 2}))

    listener.beat(2)

    assert listener.states() == ["paused"]
    assert "paused after 2 failures in a row" in listener.received[0].text


def test_a_pause_that_ended_before_anybody_was_notified_is_no_message(
    make_app: MakeApp, post: Post, listen: Listen, switch: Switch, clock: FakeClock
) -> None:
    silent = make_app((switch.orders, {"pause_after": 1}), **SECRET)
    clock.advance(300)
    post(silent)
    as_operator(silent)("PATCH", "/flows/orders", {"enabled": True}, status=200)
    switch.is_broken = False
    listener = listen(switch.orders)

    listener.beat(2)

    assert listener.states() == []


def test_a_failure_after_a_pause_by_an_operator_is_no_pause_by_the_engine(
    listen: Listen, switch: Switch
) -> None:
    listener: Listener

    def pause_and_fail(run: Run) -> None:
        operate(listener)("PATCH", "/flows/pause_and_fail", {"enabled": False}, status=200)
        switch.orders(run)

    listener = listen((pause_and_fail, {"alert_after": 1}))

    listener.beat(2)

    assert listener.states() == []


def test_a_process_that_does_not_know_the_handler_leaves_the_alarm_to_another(
    make_app: MakeApp, post: Post, listen: Listen, switch: Switch, clock: FakeClock
) -> None:
    flow = switch.orders, {"alert_after": 1, "every": "1d"}  # it does not run again
    silent = make_app(flow)
    clock.advance(300)
    post(silent)
    knowing = listen(flow)
    with heartbeat_of(knowing.app).session() as session:
        [flow_id] = session.scalars(select(DataFlow.id))
    other = listen()
    # It checks the flow, as after a run of it that it has reaped.
    heartbeat_of(other.app).publish(FlowDisabled(flow_id, "orders", "an earlier pause"))
    other.beat()

    knowing.beat(every=1)

    assert (other.states(), knowing.states()) == ([], ["failing"])


def test_a_flow_that_is_no_longer_stale_has_no_reminder(listen: Listen, clock: FakeClock) -> None:
    held = {"when": lambda _run: False, "every": "1h"}
    listener = listen((orders, {**held, "expect_success_within": "2h"}))
    listener.beat(3, every=HOUR)
    operate(listener)("PATCH", "/flows/orders", {"enabled": False}, status=200)
    clock.advance(2 * DAY)
    operate(listener)("PATCH", "/flows/orders", {"enabled": True}, status=200)
    listener.beat(every=MINUTE)
    assert listener.states() == ["stale"]
    without = listen((orders, held))  # the option is removed in the code
    without.beat(3, every=DAY)

    assert without.states() == []


def test_a_run_of_a_flow_with_a_timeout_is_an_event_too(listen: Listen) -> None:
    listener = listen((fail, {"timeout": "1m", "alert_after": 1}), kinds=(FlowFailed, FlowAlarm))

    failed, failing = listener.beat()

    assert failed.run.error_message == failing.error_message == "in a child"


def fail(_run: Run) -> None:
    """Fail."""
    message = "in a child"
    raise OSError(message)


def test_a_run_that_takes_three_times_as_long_as_usual_is_an_event(
    listen: Listen, clock: FakeClock
) -> None:
    seconds = iter([10, 10, 9, 11, 10, 25, 31])
    listener = listen(slow_orders(clock, seconds), kinds=(FlowSlow,))

    assert listener.beat(6) == []
    [slow] = listener.beat()

    assert (slow.flow, slow.usual) == ("orders", 10)
    assert 30 < slow.run.duration < 32


def slow_orders(clock: FakeClock, seconds: Any) -> Callable[[Run], None]:
    """Make a flow that takes as many seconds as given, by the test's clock."""

    def orders(_run: Run) -> None:
        clock.advance(next(seconds))

    return orders


def test_a_failure_whose_process_has_died_since_is_found_by_the_next_beat_of_another(
    make_app: MakeApp, post: Post, listen: Listen, switch: Switch, clock: FakeClock
) -> None:
    silent = make_app(switch.orders)  # without subscribers, it raises no alarm
    for _ in range(3):
        clock.advance(300)
        post(silent)
    listener = listen(switch.orders)

    listener.beat(every=1)
    listener.beat(every=1)

    assert listener.states() == ["failing"]


def test_a_success_whose_process_has_died_since_is_found_within_a_minute(
    make_app: MakeApp, post: Post, listen: Listen, switch: Switch, clock: FakeClock
) -> None:
    listener = listen(switch.orders)
    listener.beat(3)
    switch.is_broken = False
    silent = make_app(switch.orders)
    clock.advance(300)
    post(silent)

    listener.beat(every=MINUTE)

    assert listener.states() == ["failing", "recovered"]


def test_an_option_that_is_new_in_the_code_holds_for_the_flows_there_are(
    listen: Listen, dbsession: Session
) -> None:
    rows = [
        data_flow(name=name, handler="orders", created_at=NOON, next_run_at=NOON + timedelta(1))
        for name in ("orders", "eu")
    ]
    dbsession.add_all(rows)
    dbsession.commit()
    listener = listen((orders, {"expect_success_within": "1h"}))

    assert listener.beat() == []
    listener.beat(every=HOUR)

    assert sorted(alarm.flow for alarm in listener.received) == ["eu", "orders"]


def test_a_clock_that_was_ahead_does_not_delay_the_next_check(
    listen: Listen, clock: FakeClock
) -> None:
    clock.leap(365 * DAY)
    held = {"when": lambda _run: False, "expect_success_within": "1h"}
    listener = listen((orders, held))
    listener.beat()
    clock.leap(-365 * DAY)
    with heartbeat_of(listener.app).session() as session:
        session.execute(update(DataFlow).values(created_at=clock.now()))

    listener.beat(13)

    assert listener.states() == ["stale"]


def test_a_renamed_flow_keeps_its_alarm_and_a_removed_one_has_none(
    listen: Listen, switch: Switch
) -> None:
    listener = listen(switch.orders)
    listener.beat(3)
    call = operate(listener)
    call("PATCH", "/flows/orders", {"name": "purchases"}, status=200)
    switch.is_broken = False
    listener.beat()
    switch.is_broken = True
    listener.beat(3)
    call("DELETE", "/flows/purchases", status=204)
    listener.beat(2, every=DAY)

    reported = [(alarm.flow, alarm.state) for alarm in listener.received]
    assert ("orders", "failing") in reported
    assert ("purchases", "recovered") in reported
    assert not any(alarm.is_reminder for alarm in listener.received)


def test_a_subscriber_that_fails_stops_neither_the_next_event_nor_the_flow(
    listen: Listen, switch: Switch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(_event: object) -> None:
        message = "no mail server"
        raise OSError(message)

    listener = listen((switch.orders, {"alert_after": 1}), also=break_down)
    listener.beat()
    switch.is_broken = False
    listener.beat()

    assert caplog.text.count("OSError: no mail server") >= 2
    assert "a subscriber of FlowFailing failed" in caplog.text
    assert "a subscriber of FlowRecovered failed" in caplog.text


def test_a_subscriber_that_hangs_delays_no_beat(
    listen: Listen, post: Post, clock: FakeClock
) -> None:
    opened = threading.Event()
    listener = listen(orders, kinds=(FlowSucceeded,), also=lambda _event: opened.wait(30))

    for _ in range(3):
        clock.advance(300)
        assert post(listener.app).json["flows_succeeded"] == 1

    assert listener.received == []
    opened.set()
    assert len(listener.beat()) == 4


def test_an_alarm_that_could_not_be_recorded_is_raised_by_a_later_beat(
    listen: Listen, switch: Switch, caplog: pytest.LogCaptureFixture
) -> None:
    listener = listen(switch.orders)
    listener.beat(2)
    engine: Engine = heartbeat_of(listener.app).engine

    def refuse(*_ignored: object) -> None:
        if threading.current_thread().name == "heartbeat-alarms":
            raise OperationalError("SELECT", None, Exception("the database is away"))

    event.listen(engine, "before_cursor_execute", refuse)
    assert listener.beat() == []
    event.remove(engine, "before_cursor_execute", refuse)
    listener.beat(every=1)

    assert listener.states() == ["failing"]
    assert "alarms were not checked, a later beat retries" in caplog.text


def test_an_unreadable_row_delays_no_other_alarm(
    listen: Listen, switch: Switch, dbsession: Session
) -> None:
    listener = listen((switch.orders, {"alert_after": 2}))
    listener.beat()
    dbsession.add(
        data_flow(
            name="broken", handler="orders", alarm_check_at=NOON, cron="no", run_interval=None
        )
    )
    dbsession.commit()

    listener.beat()

    assert ("orders", "failing") in [(alarm.flow, alarm.state) for alarm in listener.received]


def test_a_flow_that_is_disabled_because_its_row_is_unreadable_is_reported(
    listen: Listen, dbsession: Session
) -> None:
    listener = listen(orders)
    listener.beat()
    unreadable = f"UPDATE data_flows SET last_slot_at = {NO_TIME}"  # noqa: S608 - ours
    dbsession.execute(text(unreadable))
    dbsession.commit()

    [paused] = listener.beat()

    assert paused.state == "paused"
    assert "last_slot_at" in paused.text


def test_an_idle_beat_writes_and_asks_no_more_with_a_subscriber(listen: Listen) -> None:
    listener = listen((orders, {"every": "1h"}))
    listener.beat()
    statements: list[str] = []

    def note(_connection: object, _cursor: object, text: str, *_ignored: object) -> None:
        statements.append(f"{threading.current_thread().name}: {text.split(maxsplit=1)[0]}")

    event.listen(heartbeat_of(listener.app).engine, "before_cursor_execute", note)
    listener.beat(every=1)

    assert sorted(statements) == [
        "heartbeat-alarms: SELECT",
        "heartbeat-beat: INSERT",
        "heartbeat-beat: SELECT",
    ]


def test_without_a_subscriber_nothing_is_watched(make_app: MakeApp) -> None:
    assert heartbeat_of(make_app(orders)).subscribers == []


@both_entrances
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("alert_after", 0),
        ("alert_after", "often"),
        ("remind_every", "daily"),
        ("remind_every", 0),
        ("expect_success_within", "two hours"),
        ("expect_success_within", -1),
    ],
)
def test_an_invalid_option_stops_the_start_with_a_valid_example(
    make_app: MakeApp, option: str, value: object
) -> None:
    line = refusal(make_app, orders, **{option: value})

    assert f"flow 'orders': {option} is {value!r}: " in line
    example = {"alert_after": "3", "remind_every": '"1d"', "expect_success_within": '"2h"'}[option]
    assert line.endswith(f"; valid is, for example, {option}={example}")

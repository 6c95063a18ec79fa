"""`GET /metrics`: what a scrape reports, to whom, in which format, and at which cost."""

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.orm import Session

from data_flows.heartbeat import Run
from data_flows.heartbeat.models import DataFlow

from ..conftest import TOKEN, FakeClock, MakeApp, heartbeat_of
from ..factories import NOON, data_flow, data_flow_beat, data_flow_run
from .operated import AS_OPERATOR, OPERATOR, SECRET, as_operator, row_of
from .scraping import OPEN_METRICS, Samples, counters, counts_of, read, scrape, value
from .test_health import without_database

Post = Callable[..., Any]
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_TEXT = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
# What these versions send by default.
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


def good(_run: Run) -> None:
    """Do nothing."""


def bad(_run: Run) -> None:
    """Fail."""
    raise LookupError("no such bird")


def held(_run: Run) -> None:
    """Do nothing."""


def flows_in(samples: Samples) -> set[str]:
    """Return the flows that have counters."""
    return {dict(labels)["flow"] for name, labels in samples if name == "heartbeat_runs_total"}


# ---------------------------------------------------------------------------------------------
# What it reports


def test_runs_are_counted_by_flow_and_status(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock
) -> None:
    app = make_app(good, bad, **SECRET)
    for _ in range(3):
        post(app)
        clock.advance(300)

    samples = scrape(app)

    assert value(samples, "runs_total", flow="good", status="success") == 3
    assert value(samples, "runs_total", flow="good", status="failed") == 0
    assert value(samples, "runs_total", flow="bad", status="failed") == 3
    assert value(samples, "flow_failures_in_a_row", flow="bad") == 3
    assert value(samples, "flow_failures_in_a_row", flow="good") == 0
    for name in ("good", "bad"):
        assert counters(samples, name) == counts_of(row_of(dbsession, name))
    success = value(samples, "flow_last_success_timestamp_seconds", flow="good")
    assert success == (NOON + timedelta(seconds=600)).timestamp()
    assert value(samples, "flow_last_success_timestamp_seconds", flow="bad") is None


def test_flows_that_are_due_are_late_until_they_are_claimed(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    app = make_app(good, (bad, {"every": "1h"}), **SECRET)
    scrape(app)  # registers the flows
    clock.advance(20)
    late = scrape(app)
    post(app)
    ran = scrape(app)
    clock.advance(310)

    samples = scrape(app)

    assert value(late, "flows_due") == 2
    assert value(late, "lateness_seconds") == 20
    assert value(ran, "flows_due") == value(ran, "lateness_seconds") == 0
    assert value(samples, "flows_due") == 1
    assert value(samples, "lateness_seconds") == 10
    assert value(samples, "flow_lateness_seconds", flow="good") == 10
    assert value(samples, "flow_lateness_seconds", flow="bad") == 0


def test_flows_that_may_not_run_are_neither_due_nor_late(
    make_app: MakeApp, dbsession: Session, clock: FakeClock
) -> None:
    app = make_app(
        good, (bad, {"after": ["good"]}), (held, {"when": lambda _run: "not now"}), **SECRET
    )
    scrape(app)
    rows = [data_flow(name="paused", handler="good", enabled=False), data_flow(name="unknown")]
    active = data_flow(name="active", handler="good")
    dbsession.add(data_flow_run(data_flow=active, status="in_progress", lease_expires_at=NOON))
    dbsession.add_all(rows)
    dbsession.execute(
        update(DataFlow).where(DataFlow.name == "held").values(held_because="not now")
    )
    dbsession.commit()
    clock.advance(60)

    samples = scrape(app)

    assert value(samples, "flows_due") == 1
    assert value(samples, "flow_lateness_seconds", flow="good") == 60
    for name in ("bad", "held", "paused", "unknown", "active"):
        assert value(samples, "flow_lateness_seconds", flow=name) == 0
    assert value(samples, "flow_enabled", flow="paused") == 0
    assert value(samples, "flow_enabled", flow="active") == 1


def test_active_runs_are_counted_by_status(make_app: MakeApp, dbsession: Session) -> None:
    app = make_app(**SECRET)
    for number, status in enumerate(["pending"] * 3 + ["in_progress"] * 2 + ["success"] * 4):
        flow = data_flow(name=f"flow {number}")
        dbsession.add(data_flow_run(data_flow=flow, status=status, lease_expires_at=NOON))
    dbsession.commit()

    samples = scrape(app)

    assert value(samples, "runs_pending") == 3
    assert value(samples, "runs_in_progress") == 2


def waits(dbsession: Session, flow: DataFlow, seconds: float, **columns: Any) -> None:
    """Store a pending run of a flow that was requested some seconds before noon."""
    created_at = NOON - timedelta(seconds=seconds)
    dbsession.add(data_flow_run(data_flow=flow, created_at=created_at, **columns))
    dbsession.commit()


def test_the_oldest_pending_run_is_the_one_that_could_start_and_waits_longest(
    make_app: MakeApp, dbsession: Session, clock: FakeClock
) -> None:
    app = make_app(good, **SECRET)
    retry = {"trigger": "retry", "attempt": 2}
    come, to_come = NOON - timedelta(seconds=40), NOON + timedelta(hours=1)
    found = [value(scrape(app), "oldest_pending_seconds")]

    for seconds, of_flow, of_run in (
        (9_000, {"handler": "gone"}, {}),
        (8_000, {"enabled": False}, retry),
        (7_000, {}, {"status": "in_progress", "lease_expires_at": to_come}),
        (6_000, {}, {"status": "failed", "ended_at": NOON}),
        (5_000, {}, {**retry, "not_before": to_come}),
        (4_000, {}, {**retry, "not_before": come}),
        (50, {}, {"sent_at": NOON}),
        (60, {"enabled": False}, {}),
        (30, {}, {}),
    ):
        flow = data_flow(name=f"waits {seconds}", **{"handler": "good", **of_flow})
        waits(dbsession, flow, seconds, **of_run)
        found.append(value(scrape(app), "oldest_pending_seconds"))
    clock.advance(5)

    assert found == [*[0] * 6, 40, 50, 60, 60]
    assert value(scrape(app), "oldest_pending_seconds") == 65


def test_a_pending_run_of_a_clock_that_was_ahead_has_not_waited(
    make_app: MakeApp, dbsession: Session
) -> None:
    waits(dbsession, data_flow(name="early", handler="good"), -3_600)

    assert value(scrape(make_app(good, **SECRET)), "oldest_pending_seconds") == 0


def test_workers_are_counted_by_the_leases_that_have_not_ended(
    make_app: MakeApp, dbsession: Session, clock: FakeClock
) -> None:
    app = make_app(**SECRET)
    before = scrape(app)
    living, ended = NOON + timedelta(seconds=20), NOON
    for number, (worker, status, lease) in enumerate(
        [
            *([("a", "in_progress", living)] * 2 + [("b", "in_progress", living)]),
            *[("c", "in_progress", ended), ("d", "success", living), ("e", "pending", None)],
            ("f", "in_progress", NOON + timedelta(hours=1)),
        ]
    ):
        values = {"worker": worker, "status": status, "lease_expires_at": lease}
        dbsession.add(data_flow_run(data_flow=data_flow(name=f"flow {number}"), **values))
    dbsession.commit()
    samples = scrape(app)
    clock.advance(20)

    assert value(before, "workers") == 0
    assert value(samples, "workers") == 3
    assert value(scrape(app), "workers") == 1


def test_the_age_of_the_last_beat_counts_from_the_start_without_one(
    make_app: MakeApp, post: Post, clock: FakeClock, dbsession: Session
) -> None:
    app = make_app(**SECRET, **{"heartbeat.expected_every": "2m"})
    heartbeat_app: Any = app.app
    heartbeat_app.registry["heartbeat.started_at"] = clock.now()
    clock.advance(30)
    before = scrape(app)
    post(app)
    clock.advance(45)
    after = scrape(app)
    dbsession.add(data_flow_beat(received_at=NOON + timedelta(days=1)))  # the clock was set back
    dbsession.commit()

    assert value(before, "last_beat_age_seconds") == 30
    assert value(before, "expected_every_seconds") == 120
    assert value(after, "last_beat_age_seconds") == 45
    assert value(scrape(app), "last_beat_age_seconds") == 0


def test_the_interval_is_that_of_flows_whose_slots_are_evenly_spaced(
    make_app: MakeApp, dbsession: Session
) -> None:
    windowed = {"every": "5m", "between": "22:00-06:00"}
    app = make_app((good, {"every": "2m"}), (bad, windowed), **SECRET)
    scrape(app)
    row = row_of(dbsession, "good")
    row.run_interval, row.cron = None, "0 3 * * *"
    dbsession.add(data_flow(name="good 2", handler="good", run_interval=240))
    dbsession.commit()

    samples = scrape(app)

    assert value(samples, "flow_interval_seconds", flow="good") is None
    assert value(samples, "flow_interval_seconds", flow="good 2") == 240
    assert value(samples, "flow_interval_seconds", flow="bad") is None


# ---------------------------------------------------------------------------------------------
# Labels


def add_flows(dbsession: Session, *names: str, **columns: Any) -> None:
    """Store flows with some counts, in this order."""
    given = {"handler": "good", "next_run_at": NOON + timedelta(days=1), "success_count": 2}
    for name in names:
        values = {**given, "failure_seconds": 0.5, **columns}
        dbsession.add(data_flow(name=name, **values))
        dbsession.flush()
    dbsession.commit()


def test_flows_beyond_the_limit_are_summed_and_keep_their_place(
    make_app: MakeApp, dbsession: Session, clock: FakeClock
) -> None:
    app = make_app(**SECRET, **{"heartbeat.metrics_flows": "2"})
    app_with_flow = make_app(good, **SECRET, **{"heartbeat.metrics_flows": "3"})
    scrape(app_with_flow)
    add_flows(dbsession, "b", "a")
    at_limit = scrape(app_with_flow)
    add_flows(
        dbsession, "0 is new", "1 too", failures_in_a_row=4, reaped_count=1, redelivered_count=3
    )
    add_flows(dbsession, "off", enabled=False, failures_in_a_row=9)
    dbsession.execute(
        update(DataFlow).where(DataFlow.name == "1 too").values(next_run_at=clock.now())
    )
    dbsession.commit()
    clock.advance(60)

    samples = scrape(app_with_flow)

    assert flows_in(at_limit) == {"good", "b", "a"}
    assert flows_in(samples) == {"good", "b", "a", "other"}
    assert flows_in(scrape(app)) == {"good", "b", "other"}
    assert counters(samples, "other") == {
        "success_count": 6,
        "success_seconds": 0,
        "failure_count": 0,
        "failure_seconds": 1.5,
        "reaped_count": 2,
        "redelivered_count": 6,
    }
    assert value(samples, "flow_lateness_seconds", flow="other") == 60
    assert value(samples, "flow_failures_in_a_row", flow="other") == 4
    assert value(samples, "flow_enabled", flow="other") == 2
    assert value(samples, "flow_interval_seconds", flow="other") is None


def test_without_labels_of_their_own_all_flows_are_summed(
    make_app: MakeApp, dbsession: Session
) -> None:
    app = make_app(good, **SECRET, **{"heartbeat.metrics_flows": "0"})
    assert flows_in(scrape(app)) == {"other"}
    add_flows(dbsession, "a", "b")

    assert value(scrape(app), "runs_total", flow="other", status="success") == 4


def test_a_flow_that_is_named_like_the_rest_is_counted_with_it(
    make_app: MakeApp, dbsession: Session
) -> None:
    app = make_app(good, **SECRET, **{"heartbeat.metrics_flows": "2"})
    scrape(app)
    add_flows(dbsession, "other")
    alone = scrape(app)
    add_flows(dbsession, "a", "b")

    samples = scrape(app)

    assert flows_in(alone) == {"good", "other"}
    assert flows_in(samples) == {"good", "a", "other"}
    assert value(samples, "runs_total", flow="other", status="success") == 4


HOSTILE = [
    *('a"b', "a\\", "\\n", 'a\\"b', "Käuzchen 🦉", "e\N{COMBINING ACUTE ACCENT}", "{} # , ="),
    *("\N{RIGHT-TO-LEFT OVERRIDE}x", "a b", "\N{LINE SEPARATOR}x", "x" * 200, "Other", "%(a)s"),
]


def test_any_name_of_a_flow_is_a_label(make_app: MakeApp, dbsession: Session) -> None:
    app = make_app(good, **SECRET)
    scrape(app)
    add_flows(dbsession, *HOSTILE)

    samples = scrape(app)

    assert flows_in(samples) == {"good", *HOSTILE}
    for name in HOSTILE:
        assert value(samples, "runs_total", flow=name, status="success") == 2


# ---------------------------------------------------------------------------------------------
# Who may ask, and for which format


def test_only_operators_may_scrape(make_app: MakeApp) -> None:
    app = make_app(**SECRET)

    app.get("/heartbeat/metrics", status=401)
    app.get("/heartbeat/metrics", headers={"Authorization": f"Bearer {TOKEN}"}, status=403)
    app.get("/heartbeat/metrics", headers={"X-Heartbeat-Token": OPERATOR}, status=200)
    reply = app.post("/heartbeat/metrics", headers=AS_OPERATOR, status=405)
    assert reply.headers["Allow"] == "GET"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, TEXT),
        ("", TEXT),
        ("*/*", TEXT),
        ("text/*", TEXT),
        ("text/plain", TEXT),
        ("text/plain; version=0.0.4", TEXT),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", TEXT),
        ("text/plain;q=0.9, application/openmetrics-text;q=0.1", TEXT),
        ("application/openmetrics-text;q=0, */*", TEXT),
        ("nonsense", TEXT),
        (OPEN_METRICS, OPEN_TEXT),
        ("application/openmetrics-text", OPEN_TEXT),
        ("application/openmetrics-text;version=1.0.0;escaping=nonsense", OPEN_TEXT),
        (PROMETHEUS_2, OPEN_TEXT),
        (PROMETHEUS_3, OPEN_TEXT),
        ("text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4", TEXT),
    ],
)
def test_the_format_is_the_accepted_one(
    make_app: MakeApp, accept: str | None, content_type: str
) -> None:
    headers = AS_OPERATOR if accept is None else {**AS_OPERATOR, "Accept": accept}

    reply = make_app(**SECRET).get("/heartbeat/metrics", headers=headers)

    assert reply.headers["Content-Type"] == content_type
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.text.endswith("# EOF\n") == (content_type == OPEN_TEXT)


@pytest.mark.parametrize(
    "accept",
    [
        *("application/json", "image/png", "application/xml;q=0.9", "*/*;q=0"),
        *("application/openmetrics-text;version=99", "text/plain;version=x"),
    ],
)
def test_another_format_is_refused(make_app: MakeApp, accept: str) -> None:
    reply = as_operator(make_app(**SECRET))("GET", "/metrics", status=406, Accept=accept)

    assert reply.content_type == "application/problem+json"
    assert "application/openmetrics-text" in reply.json["detail"]


# ---------------------------------------------------------------------------------------------
# What it needs, and costs


def test_a_database_that_is_away_is_answered_503(make_app: MakeApp) -> None:
    app = make_app(**SECRET)
    scrape(app)
    without_database(app)

    reply = app.get("/heartbeat/metrics", headers=AS_OPERATOR, status=503)

    assert reply.content_type == "application/problem+json"
    assert int(reply.headers["Retry-After"]) > 0


def test_without_its_package_the_application_starts_and_names_it(
    make_app: MakeApp, post: Post, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    app = make_app(good, **SECRET)

    assert caplog.text.count("metrics are not served: the package prometheus-client is not") == 1
    post(app)
    app.get("/heartbeat/metrics", status=401)
    detail = app.get("/heartbeat/metrics", headers=AS_OPERATOR, status=503).json["detail"]
    assert "run `pip install prometheus-client`" in detail


@pytest.mark.parametrize(("flows", "limit"), [(0, 200), (5, 200), (60, 20), (60, 0)])
def test_a_scrape_costs_three_statements_whatever_there_is(
    make_app: MakeApp, dbsession: Session, flows: int, limit: int
) -> None:
    app = make_app(
        good, (bad, {"after": ["good"]}), **SECRET, **{"heartbeat.metrics_flows": str(limit)}
    )
    scrape(app)
    add_flows(dbsession, *[f"flow {number}" for number in range(flows)])
    for flow in dbsession.scalars(select(DataFlow)).all():
        dbsession.add_all(data_flow_run(data_flow=flow, status="success") for _ in range(3))
        dbsession.add(data_flow_run(data_flow=flow, status="pending"))
    dbsession.commit()
    statements: list[str] = []
    event.listen(
        heartbeat_of(app).engine, "before_cursor_execute", lambda *call: statements.append(call[2])
    )

    app.get("/heartbeat/metrics", headers=AS_OPERATOR)

    assert len(statements) == 3, statements
    assert {text.split()[0] for text in statements} == {"SELECT"}


def test_each_application_has_its_own_metrics_and_none_of_the_process(
    make_app: MakeApp, dbsession: Session
) -> None:
    first, second = make_app(good, **SECRET), make_app(good, **SECRET)

    texts = [as_operator(app)("GET", "/metrics", status=200).text for app in (first, second)]

    assert texts[0] == texts[1]
    assert "python_info" not in texts[0]
    assert all(name.startswith("heartbeat_") for name, _labels in read(texts[0]))
    assert dbsession.scalars(select(DataFlow.name)).all() == ["good"]

"""The page of a run: what it shows of any text, and how a run is repeated."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from data_flows.heartbeat import Run

from ..conftest import MakeApp
from ..factories import NOON, data_flow, data_flow_run
from .browsing import signed_in
from .conftest import settle
from .operated import SECRET, count, runs_of

Post = Callable[..., Any]


def burn(run: Run) -> None:
    """Log, and fail below a library."""
    run.log.warning("smoke")
    int("<b>fire</b>")


def add_run(dbsession: Session, name: str = "stored", **columns: Any) -> int:
    """Store a run that has ended; return its id."""
    flow = data_flow(name=name)
    dbsession.add(flow)
    dbsession.flush()
    values: dict[str, Any] = {
        "status": "failed",
        "started_at": NOON,
        "ended_at": NOON,
        "duration": 1.5,
    }
    values |= columns
    run = data_flow_run(data_flow_id=flow.id, **values)
    dbsession.add(run)
    dbsession.commit()
    return run.id


def test_a_failed_run_shows_its_error_and_the_frames_of_the_flow(
    make_app: MakeApp, dbsession: Session
) -> None:
    app = make_app((burn, {"every": None, "cron": "0 3 * * *", "timezone": "Asia/Tokyo"}), **SECRET)
    browser = signed_in(app)
    flow = browser.get("/heartbeat/flows/burn")

    page = flow.forms[1].submit("do", value="run").follow()
    settle()
    page = browser.get(page.request.path)

    text = page.html.find("main").text
    assert "failed" in page.html.select_one(".why .state").text
    assert "<b>fire</b>" in page.html.select_one(".message").text
    assert "smoke" in page.html.find(id="log").text
    assert "JST" in text
    assert "UTC" in text
    backtrace = page.html.find(id="backtrace")
    folded = "".join(part.text for part in backtrace.find_all("details"))
    assert "in burn" not in folded
    [stored] = runs_of(dbsession, "burn")
    copied = backtrace.text.replace("\u200b", "").replace("\\u200b", "")
    assert copied.strip() == str(stored.error_backtrace).strip()


def test_the_frames_of_the_engine_and_of_libraries_are_folded(
    make_app: MakeApp, dbsession: Session
) -> None:
    browser = signed_in(make_app(**SECRET))
    # As text: in a real one, a password of the database that is part of a path would be redacted.
    frames = ["/app/src/data_flows/heartbeat/runs/execute.py", "/app/site-packages/csv.py"]
    frames.insert(1, "/app/src/data_flows/flows/orders.py")
    lines = "".join(f'  File "{name}", line 1, in f\n    f()\n' for name in frames)
    backtrace = f"Traceback (most recent call last):\n{lines}ValueError: no\n"
    run_id = add_run(dbsession, error_type="ValueError", error_backtrace=backtrace)

    shown = browser.get(f"/heartbeat/runs/{run_id}").html.find(id="backtrace")

    folded = "".join(part.text for part in shown.find_all("details"))
    assert "execute.py" in folded
    assert "csv.py" in folded
    assert "orders.py" not in folded
    assert "orders.py" in shown.text


def test_a_run_that_waits_shows_its_state_in_a_live_region(
    make_app: MakeApp, dbsession: Session
) -> None:
    browser = signed_in(make_app(**SECRET))
    run_id = add_run(dbsession, status="pending", started_at=None, ended_at=None, duration=None)

    page = browser.get(f"/heartbeat/runs/{run_id}")

    live = page.html.find(attrs={"data-live": "run"})
    assert live.select_one(".state").text.strip() == "pending"


def test_a_run_that_was_handed_over_shows_when_and_how_often(
    make_app: MakeApp, dbsession: Session
) -> None:
    browser = signed_in(make_app(**SECRET))
    waiting = {"status": "pending", "started_at": None, "ended_at": None, "duration": None}
    sent_at = NOON - timedelta(minutes=7)
    plain = add_run(dbsession, "plain", **waiting)
    handed_over = {**waiting, "sent_at": sent_at, "redeliveries": 2, "worker": "of the beat"}
    sent = add_run(dbsession, "sent", **handed_over)
    ended = add_run(dbsession, "ended", sent_at=sent_at, worker="of the run")

    pages = [browser.get(f"/heartbeat/runs/{each}").html.main for each in (plain, sent, ended)]

    facts = [
        {part.dt.text: " ".join(part.dd.text.split()) for part in page.select(".facts div")}
        for page in pages
    ]
    assert not facts[0].keys() & {"Handed over", "Sent again", "Worker"}
    assert "handed over" not in pages[0].text
    assert facts[1]["Handed over"] == "7 min ago 11:53:00 UTC"
    assert facts[1]["Sent again"] == "2 times"
    assert "Worker" not in facts[1]
    assert "no worker has begun it" in pages[1].select_one(".why").text
    assert facts[2].keys() >= {"Handed over", "Worker"}
    assert "Sent again" not in facts[2]


def test_a_result_is_shown_as_json(make_app: MakeApp, dbsession: Session) -> None:
    browser = signed_in(make_app(**SECRET))
    run_id = add_run(dbsession, status="success", result={"rows": [1, "é"]})

    shown = browser.get(f"/heartbeat/runs/{run_id}").html.find(id="result").text

    assert shown == '{\n  "rows": [\n    1,\n    "é"\n  ]\n}'


def test_hostile_texts_are_escaped_cut_and_redacted(make_app: MakeApp, dbsession: Session) -> None:
    browser = signed_in(make_app(**SECRET))
    evil = "<script>\u202e\x1b[31m https://ann:hunter2@host/ \"'&{{ 7 * 7 }}\n"
    # MySQL's TEXT holds 64 KB.
    long = evil * 500
    run_id = add_run(
        dbsession,
        error_type=evil[:100],
        error_message=evil,
        error_backtrace='  File "/srv/x.py", line 1, in x\n' + long,
        log=long,
        result={"x": long[:20_000]},
    )

    page = browser.get(f"/heartbeat/runs/{run_id}")

    for text in ("<script>\\u", "\u202e", "\x1b", "hunter2"):
        assert text not in page.html.find("main").decode_contents()
    assert "{{ 7 * 7 }}" in page.text
    assert len(page.body) < 100_000


def test_an_unknown_run_is_a_page_with_a_way_back(make_app: MakeApp) -> None:
    browser = signed_in(make_app(**SECRET))

    for path in ("/runs/9", "/runs/x", "/flows/nobody"):
        page = browser.get(f"/heartbeat{path}", status=404)
        assert page.html.find("main").a["href"] == "/heartbeat/flows"


def test_a_run_is_repeated(make_app: MakeApp, post: Post, dbsession: Session) -> None:
    app = make_app(count, **SECRET)
    post(app)
    [first] = runs_of(dbsession, "count")
    browser = signed_in(app)

    reply = browser.get(f"/heartbeat/runs/{first.id}").forms[1].submit("do", value="run")
    page = reply.follow()

    assert "requested" in page.html.select_one(".notice").text
    assert [run.trigger for run in runs_of(dbsession, "count")] == ["schedule", "manual"]
    assert f"/runs/{runs_of(dbsession, 'count')[1].id}" in reply.headers["Location"]

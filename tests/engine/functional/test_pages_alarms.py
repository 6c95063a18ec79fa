"""What the pages show of a flow that is stale."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from data_flows.heartbeat.models import DataFlow
from data_flows.heartbeat.optional.alarms import FlowAlarm

from ..conftest import FakeClock, MakeApp, heartbeat_of
from .alarmed import finish
from .browsing import signed_in
from .operated import AS_OPERATOR, SECRET, count
from .test_pages_today import today, verdict

Post = Callable[..., Any]
HOUR = 3_600


def test_a_stale_flow_is_in_trouble_on_each_page(
    make_app: MakeApp, post: Post, dbsession: Session, clock: FakeClock
) -> None:
    options = {"every": "1h", "expect_success_within": "2h"}
    app = make_app((count, options), (count, {"name": "other"}), **SECRET)
    post(app)
    browser = signed_in(app)
    well = verdict(today(browser))
    dbsession.execute(update(DataFlow).values(next_run_at=clock.now().replace(year=2030)))
    dbsession.commit()

    clock.advance(3 * HOUR)
    post(app)
    stale = verdict(today(browser))
    flows = browser.get("/heartbeat/flows?state=stale", status=200)
    flow = browser.get("/heartbeat/flows/count", status=200)

    assert well.startswith("All is well")
    assert stale.startswith("1 of 2 flows in trouble: 1 stale, ")
    assert "count" in flows.text
    assert "/flows/other" not in flows.text
    assert "Stale: no success since" in flow.html.select_one(".why").text
    assert flow.html.select_one(".why .state").text.strip() == "stale"


def test_a_thousand_handlers_may_have_the_option(
    make_app: MakeApp, post: Post, clock: FakeClock
) -> None:
    received: list[FlowAlarm] = []

    def subscribe(config: Any) -> None:
        config.add_subscriber(received.append, FlowAlarm)

    options = {"every": "1d", "start": "next", "expect_success_within": "2h"}
    app = make_app((count, options), configure=subscribe, **SECRET)
    flows = heartbeat_of(app).flows
    more = [f"flow {number}" for number in range(999)]
    flows |= {name: flows["count"].model_copy(update={"name": name}) for name in more}
    browser = signed_in(app)
    browser.get("/heartbeat/today", status=200)

    clock.advance(3 * HOUR)
    post(app)
    finish(app)

    assert len(received) == 1_000
    assert verdict(today(browser)).startswith("1000 of 1000 flows in trouble: 1000 stale")
    browser.get("/heartbeat/flows", status=200)
    app.get("/heartbeat/flows/count", headers=AS_OPERATOR, status=200)

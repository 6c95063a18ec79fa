"""What the pages show of a flow that is stale."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from data_flows.heartbeat.models import DataFlow

from ..conftest import FakeClock, MakeApp
from .browsing import signed_in
from .operated import SECRET, count
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

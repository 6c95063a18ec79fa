"""The alert rules and the dashboard: they use the metrics that there are, and alerts fire."""

import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from webtest import TestApp

from data_flows.heartbeat.optional import metrics

from ..conftest import MakeApp
from .operated import SECRET, as_operator

ALERTS = files(metrics.__name__).joinpath("alerts.yml").read_text()
DASHBOARD = files(metrics.__name__).joinpath("dashboard.json").read_text()
PROMTOOL = shutil.which("promtool")
# The labels that a scrape adds, and those of this engine.
LABELS = {"flow", "status", "job"}


@pytest.fixture
def text(make_app: MakeApp) -> str:
    """Scrape an application."""
    app: TestApp = make_app(**SECRET)
    return str(as_operator(app)("GET", "/metrics", status=200).text)


def metrics_in(text: str) -> set[str]:
    """Return the names of our metrics in a text."""
    return set(re.findall(r"\bheartbeat_[a-z_]+", text))


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard."""
    found: list[dict[str, Any]] = json.loads(DASHBOARD)["panels"]
    return found


def test_rules_and_dashboard_use_metrics_that_are_there(text: str) -> None:
    served = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))

    assert metrics_in(ALERTS) <= served
    assert metrics_in(DASHBOARD) <= served
    assert served <= metrics_in(ALERTS + DASHBOARD), "a metric that nothing shows"


def test_their_labels_are_there() -> None:
    selectors = " ".join(re.findall(r"\{([^{}$]*=[^{}]*)\}", DASHBOARD.replace('\\"', '"')))
    by = ", ".join(re.findall(r"\bby \(([^)]*)\)", ALERTS + DASHBOARD))

    assert set(re.findall(r"(\w+)=", selectors)) <= LABELS
    assert set(re.split(r",\s*", by)) <= LABELS
    assert set(re.findall(r"\$labels\.(\w+)", ALERTS)) <= {"flow", "instance"}


def test_there_is_an_alert_for_each_kind_of_trouble() -> None:
    assert re.findall(r"- alert: Heartbeat(\w+)", ALERTS) == [
        *("Down", "MetricsAbsent", "NoBeat", "FlowFailing", "FlowPausedAfterFailures"),
        *("FlowStale", "FlowsLate", "RunPending", "RunsReaped"),
    ]
    assert "absent(heartbeat_" in ALERTS


def test_each_panel_has_a_place_of_its_own_and_a_query() -> None:
    places = [
        {(x, y) for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])}
        for p in (panel["gridPos"] for panel in panels())
    ]

    assert sum(map(len, places)) == len(set().union(*places))
    assert len({panel["id"] for panel in panels()}) == len(panels())
    for panel in panels():
        assert panel["title"]
        assert [target["expr"] for target in panel["targets"]]


def test_a_database_of_dashboards_finds_its_variables() -> None:
    variables = {each["name"] for each in json.loads(DASHBOARD)["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", DASHBOARD)) - {"__all", "__rate_interval"}

    assert variables == used == {"datasource", "job", "flow"}


# Where Prometheus's own tool is installed; `.ci/run` of the template installs it.
if PROMTOOL:
    LAST_SUCCESS = "heartbeat_flow_last_success_timestamp_seconds"
    JOB_A = '{job="heartbeat",flow="a"}'
    # What each minute brings, and the alerts that fire then, by alert and its flow.
    CASES: dict[str, tuple[dict[str, str], str, list[tuple[str, str]]]] = {
        "all is well": (
            {
                'up{job="heartbeat"}': "1x60",
                'heartbeat_last_beat_age_seconds{job="heartbeat"}': "30x60",
                'heartbeat_expected_every_seconds{job="heartbeat"}': "300x60",
                'heartbeat_flow_failures_in_a_row{job="heartbeat",flow="a"}': "2x60",
                'heartbeat_flow_enabled{job="heartbeat",flow="a"}': "1x60",
                'heartbeat_flow_interval_seconds{job="heartbeat",flow="a"}': "300x60",
                f"{LAST_SUCCESS}{JOB_A}": "0+60x60",
                'heartbeat_lateness_seconds{job="heartbeat"}': "800x60",
                'heartbeat_oldest_pending_seconds{job="heartbeat"}': "800x60",
                'heartbeat_runs_reaped_total{job="heartbeat",flow="a"}': "7x60",
            },
            "30m",
            [],
        ),
        "nothing is scraped": ({"vector": "1x60"}, "15m", [("HeartbeatMetricsAbsent", "")]),
        "the scheduler is silent": (
            {
                'heartbeat_last_beat_age_seconds{job="heartbeat"}': "0+60x60",
                'heartbeat_expected_every_seconds{job="heartbeat"}': "300x60",
            },
            "13m",
            [("HeartbeatNoBeat", "")],
        ),
        "a flow fails, and another one was paused": (
            {
                'heartbeat_last_beat_age_seconds{job="heartbeat"}': "0x60",
                'heartbeat_flow_failures_in_a_row{job="heartbeat",flow="a"}': "3x60",
                'heartbeat_flow_enabled{job="heartbeat",flow="a"}': "1x60",
                'heartbeat_flow_failures_in_a_row{job="heartbeat",flow="b"}': "5x60",
                'heartbeat_flow_enabled{job="heartbeat",flow="b"}': "0x60",
            },
            "1m",
            [("HeartbeatFlowFailing", "a"), ("HeartbeatFlowPausedAfterFailures", "b")],
        ),
        "a flow is stale, and a paused one is not": (
            {
                'heartbeat_last_beat_age_seconds{job="heartbeat"}': "0x60",
                'heartbeat_flow_enabled{job="heartbeat",flow="a"}': "1x60",
                'heartbeat_flow_interval_seconds{job="heartbeat",flow="a"}': "300x60",
                f"{LAST_SUCCESS}{JOB_A}": "0x60",
                'heartbeat_flow_enabled{job="heartbeat",flow="b"}': "0x60",
                'heartbeat_flow_interval_seconds{job="heartbeat",flow="b"}': "300x60",
                'heartbeat_flow_last_success_timestamp_seconds{job="heartbeat",flow="b"}': "0x60",
            },
            "20m",
            [("HeartbeatFlowStale", "a")],
        ),
        "no worker begins a run": (
            {
                'heartbeat_last_beat_age_seconds{job="heartbeat"}': "0x60",
                'heartbeat_oldest_pending_seconds{job="heartbeat",instance="x"}': "0+60x60",
                'heartbeat_workers{job="heartbeat"}': "0x60",
            },
            "21m",
            [("HeartbeatRunPending", "")],
        ),
        "beats are too rare, and a process died": (
            {
                'heartbeat_last_beat_age_seconds{job="heartbeat"}': "0x60",
                'heartbeat_lateness_seconds{job="heartbeat",instance="x"}': "1000x60",
                'heartbeat_runs_reaped_total{job="heartbeat",flow="a"}': "1x10 2x50",
                'up{job="heartbeat"}': "0x60",
            },
            "15m",
            [("HeartbeatDown", ""), ("HeartbeatFlowsLate", ""), ("HeartbeatRunsReaped", "a")],
        ),
    }

    def run_promtool(*arguments: str, text: str = "") -> None:
        command = [str(PROMTOOL), *arguments]
        done = subprocess.run(  # noqa: S603 - our own arguments
            command, input=text, capture_output=True, check=False, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""

    @pytest.fixture
    def rules(tmp_path: Path) -> Path:
        """Write the rules to a file."""
        file = tmp_path / "alerts.yml"
        file.write_text(ALERTS)
        return file

    def test_promtool_accepts_the_rules(rules: Path) -> None:
        run_promtool("check", "rules", str(rules))

    def test_promtool_accepts_the_metrics(text: str) -> None:
        run_promtool("check", "metrics", text=text)

    def test_promtool_accepts_the_queries_of_the_dashboard(tmp_path: Path) -> None:
        queries = [target["expr"] for panel in panels() for target in panel["targets"]]
        given = [
            {"record": f"query_{number}", "expr": query.replace("$__rate_interval", "5m")}
            for number, query in enumerate(queries)
        ]
        file = tmp_path / "queries.yml"
        file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": given}]}))

        run_promtool("check", "rules", str(file))

    @pytest.mark.parametrize("case", CASES)
    def test_the_alerts_fire(rules: Path, case: str) -> None:
        series, at, firing = CASES[case]
        names = re.findall(r"- alert: (\w+)", ALERTS)
        inputs = [{"series": name, "values": values} for name, values in series.items()]
        expected = [(name, [flow for alert, flow in firing if alert == name]) for name in names]
        # Without texts and severities, which promtool would compare.
        bare = re.sub(
            r"(?m)^        annotations:\n(?: {10,}.*\n)*|^        labels: .*\n", "", ALERTS
        )
        rules.write_text(bare)
        tests = {
            "rule_files": [str(rules)],
            "evaluation_interval": "1m",
            "tests": [
                {
                    "interval": "1m",
                    "input_series": inputs,
                    "alert_rule_test": [
                        {
                            "eval_time": at,
                            "alertname": name,
                            "exp_alerts": [
                                {
                                    "exp_labels": {
                                        "job": "heartbeat",
                                        **({"flow": flow} if flow else {}),
                                    }
                                }
                                for flow in flows
                            ],
                        }
                        for name, flows in expected
                    ],
                }
            ],
        }
        file = rules.with_name("tests.yml")
        file.write_text(json.dumps(tests))

        run_promtool("test", "rules", str(file))

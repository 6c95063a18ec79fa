"""The metrics: their names, types and labels, which `alerts.yml` and `dashboard.json` use."""

from collections.abc import Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from ...core import Heartbeat
from .figures import Figures, FlowFigures, read_figures

FLOW = ["flow"]
FLOW_AND_STATUS = ["flow", "status"]


def expose(heartbeat: Heartbeat, started_at: datetime, accepted: str) -> tuple[bytes, str]:
    """Return the metrics of an application as a text, and its media type.

    started_at: when this process started. accepted: the media type that is wanted.
    """
    encode, content_type = choose_encoder(accepted)
    registry = CollectorRegistry()  # not the global one, which has metrics of the process
    registry.register(HeartbeatCollector(heartbeat, started_at))
    return encode(registry), content_type


class HeartbeatCollector:
    """Reads the figures of an application from its database whenever they are collected."""

    def __init__(self, heartbeat: Heartbeat, started_at: datetime) -> None:
        self._heartbeat = heartbeat
        self._started_at = started_at

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics. Raises an error of SQLAlchemy if the database cannot be read."""
        with self._heartbeat.session() as session:
            figures = read_figures(self._heartbeat, session)
        yield from _of_all(figures)
        yield from self._of_beats(figures)
        yield from _counters(figures)
        yield from _gauges(figures)

    def _of_beats(self, figures: Figures) -> Iterator[Metric]:
        last = figures.last_beat_at or self._started_at
        age = (self._heartbeat.clock.now() - last).total_seconds()
        yield GaugeMetricFamily(
            "heartbeat_last_beat_age_seconds",
            "Seconds since the last beat came; before the first one, since this process started.",
            max(age, 0.0),
        )
        yield GaugeMetricFamily(
            "heartbeat_expected_every_seconds",
            "Seconds from beat to beat, as the setting heartbeat.expected_every expects them.",
            self._heartbeat.settings.expected_every,
        )


def _of_all(figures: Figures) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "heartbeat_flows_due", "Flows that are due and have not been claimed.", figures.flows_due
    )
    lateness = GaugeMetricFamily(
        "heartbeat_lateness_seconds", "Seconds since the slot of the most overdue flow that is due."
    )
    _add(lateness, [], figures.lateness)
    yield lateness
    yield GaugeMetricFamily(
        "heartbeat_runs_pending",
        "Runs that wait for a worker or for a retry.",
        figures.runs_pending,
    )
    yield GaugeMetricFamily(
        "heartbeat_runs_in_progress", "Runs that are in progress.", figures.runs_in_progress
    )
    oldest = GaugeMetricFamily(
        "heartbeat_oldest_pending_seconds",
        "Seconds for which the oldest pending run that could start has waited; 0 without one.",
    )
    _add(oldest, [], figures.oldest_pending)
    yield oldest
    yield GaugeMetricFamily(
        "heartbeat_workers",
        "Processes that execute runs: workers whose leases have not ended.",
        figures.workers,
    )


def _counters(figures: Figures) -> Iterator[Metric]:
    runs = CounterMetricFamily(
        "heartbeat_runs", "Runs that have ended, removed history included.", labels=FLOW_AND_STATUS
    )
    seconds = CounterMetricFamily(
        "heartbeat_run_seconds", "Seconds that those runs took.", labels=FLOW_AND_STATUS
    )
    reaped = CounterMetricFamily(
        "heartbeat_runs_reaped",
        "Runs among the failed ones whose process gave no sign of life until its lease ended.",
        labels=FLOW,
    )
    redelivered = CounterMetricFamily(
        "heartbeat_runs_redelivered",
        "How often runs were sent to workers again, since none had begun them.",
        labels=FLOW,
    )
    for flow, figure in figures.flows.items():
        counters = figure.counters
        _add(runs, [flow, "success"], counters["success_count"])
        _add(runs, [flow, "failed"], counters["failure_count"])
        _add(seconds, [flow, "success"], counters["success_seconds"])
        _add(seconds, [flow, "failed"], counters["failure_seconds"])
        _add(reaped, [flow], counters["reaped_count"])
        _add(redelivered, [flow], counters["redelivered_count"])
    yield from (runs, seconds, reaped, redelivered)


def _gauges(figures: Figures) -> Iterator[Metric]:
    """Yield what is known of each flow now."""
    described = {
        "heartbeat_flow_enabled": "1 if the flow is enabled; for other, how many flows are.",
        "heartbeat_flow_failures_in_a_row": "Failed runs since the last success.",
        "heartbeat_flow_lateness_seconds": "Seconds since the slot of the flow, while it is due.",
        "heartbeat_flow_last_success_timestamp_seconds": "When the last successful run ended.",
        "heartbeat_flow_interval_seconds": "Seconds from slot to slot, for flows with `every`.",
    }
    gauges = {name: GaugeMetricFamily(name, text, labels=FLOW) for name, text in described.items()}
    for flow, figure in figures.flows.items():
        for gauge, value in zip(gauges.values(), _values_of(figure), strict=True):
            _add(gauge, [flow], value)
    yield from gauges.values()


def _values_of(figure: FlowFigures) -> tuple[float | None, ...]:
    """Return the values of the gauges, in their order."""
    last = figure.last_success_at
    success = last.timestamp() if last else None
    now = figure.enabled, figure.failures_in_a_row, figure.lateness
    return (*now, success, figure.interval)


def _add(
    metric: CounterMetricFamily | GaugeMetricFamily, labels: list[str], value: float | None
) -> None:
    """Add a sample; none for a value that is unknown."""
    if value is not None:
        metric.add_metric(labels, value)

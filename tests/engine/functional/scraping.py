"""What tests of `/metrics` share: a scrape, read by the parsers of prometheus-client."""

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from webtest import TestApp

from .operated import as_operator

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
Labels = tuple[tuple[str, str], ...]
# The value of each sample, by its name and its labels.
Samples = dict[tuple[str, Labels], float]


def scrape(app: TestApp) -> Samples:
    """Scrape an application in both formats, which must agree; return the samples."""
    call = as_operator(app)
    found = read(call("GET", "/metrics", status=200).text)
    assert found == read_open_metrics(call("GET", "/metrics", status=200, Accept=OPEN_METRICS).text)
    return found


def read(text: str) -> Samples:
    """Parse the text format 0.0.4."""
    return _samples(text_string_to_metric_families(text))


def read_open_metrics(text: str) -> Samples:
    """Parse the format OpenMetrics."""
    parse: Callable[[str], Iterable[Metric]] = open_metrics_families
    return _samples(parse(text))


def _samples(families: Iterable[Metric]) -> Samples:
    found: Samples = {}
    for family in families:
        assert family.name.startswith("heartbeat_")
        assert family.documentation
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = float(sample.value)
    return found


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """Return the value of a sample; None if it is not there."""
    return samples.get((f"heartbeat_{name}", tuple(sorted(labels.items()))))


def counters(samples: Samples, flow: str) -> dict[str, float | None]:
    """Return the counters of a flow, in the columns of its row."""
    return {
        "success_count": value(samples, "runs_total", flow=flow, status="success"),
        "success_seconds": value(samples, "run_seconds_total", flow=flow, status="success"),
        "failure_count": value(samples, "runs_total", flow=flow, status="failed"),
        "failure_seconds": value(samples, "run_seconds_total", flow=flow, status="failed"),
        "reaped_count": value(samples, "runs_reaped_total", flow=flow),
        "redelivered_count": value(samples, "runs_redelivered_total", flow=flow),
    }


def counts_of(row: Any) -> dict[str, float]:
    """Return the same columns of a flow's row."""
    names = (
        *("success_count", "success_seconds", "failure_count", "failure_seconds"),
        *("reaped_count", "redelivered_count"),
    )
    return {name: float(getattr(row, name)) for name in names}

"""Flows as a project declares them, for `config.scan` to find."""

from data_flows.heartbeat import Run, flow


@flow(every="1h", configuration={"region": "eu"})
def count_birds(run: Run) -> dict[str, str]:
    """Count the birds.

    Second paragraph.
    """
    return {"region": run.configuration["region"]}


@flow(every=90, name="feed birds", start="next", description="Bread, no butter")
def feed(_run: Run) -> None:
    """Feed them."""

"""The options of the decorator, as type checkers and readers see them."""

from data_flows.heartbeat.definition import FlowDefinition
from data_flows.heartbeat.registry import FlowOptions


def test_a_type_checker_knows_each_option_and_the_docstring_explains_it() -> None:
    options = FlowDefinition.model_fields.keys() - {"function", "place"}

    assert FlowOptions.__annotations__.keys() == options
    documented = FlowOptions.__doc__ or ""
    # The time zone is explained with cron, and the delay with the retries.
    missing = {option for option in options if f"{option}:" not in documented}
    assert missing == {"timezone", "grace", "retry_delay"}

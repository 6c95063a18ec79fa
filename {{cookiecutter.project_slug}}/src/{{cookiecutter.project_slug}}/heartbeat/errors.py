"""What can go wrong, by name. Each message says what happened and how to mend it."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from .redaction import redact

LONGEST_VALUE = 100


class DataFlowError(Exception):
    """The base of all errors that the engine raises itself."""


class SettingsError(DataFlowError, ValueError):
    """Settings are missing or wrong; the message lists every fault, one a line."""


class DeclarationError(DataFlowError, ValueError):
    """A flow is declared in a way that cannot work."""


class UnknownFlowError(DataFlowError, LookupError):
    """No row of `data_flows` has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no flow is called {name!r}: `heartbeat flows` lists them")


class NameTakenError(DataFlowError):
    """A flow was to get a name that another one has."""


class InputError(DataFlowError, ValueError):
    """What an operator asks for cannot be; `errors` says why, by field."""

    def __init__(self, errors: Mapping[str, list[str]]) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{name}: {', '.join(why)}" for name, why in errors.items()))


class HandlerNotRegisteredError(DataFlowError, LookupError):
    """A row names a handler that no code in this process registers."""

    def __init__(self, name: str, handler: str) -> None:
        super().__init__(
            f"flow {name!r} needs the handler {handler!r}, which is not registered: add it to "
            f"flows/, or end the flow with `heartbeat remove {name}`"
        )


class ActiveRunError(DataFlowError):
    """A run was asked for while another one of the same flow is pending or in progress."""

    def __init__(self, name: str) -> None:
        super().__init__(f"flow {name!r} has a run that has not ended: wait for it")


class StatusError(DataFlowError):
    """A run was asked for a change of status that is not allowed."""


class ClaimLostError(DataFlowError):
    """The run was reaped, removed or taken over while its flow was at work."""

    def __init__(self, run_id: int) -> None:
        super().__init__(f"run {run_id} is no longer ours: nothing that its flow wrote is kept")


class LeaseExpired(DataFlowError):  # noqa: N818 - the name is part of the contract
    """A run's process gave no sign of life until its lease ended."""


class Interrupted(DataFlowError):  # noqa: N818 - the name is part of the contract
    """A run's process was told to stop, and its flow did not end in time."""

    def __init__(self, worker: str | None, grace: int) -> None:
        super().__init__(
            f"{worker} was told to stop, and the flow did not end within the {grace} s that it had "
            "then: raise heartbeat.shutdown_grace, or let the flow do less at a time"
        )


class FlowTimeout(DataFlowError):  # noqa: N818 - the name is part of the contract
    """A flow ran longer than its `timeout`: its process was ended."""


class FlowProcessDied(DataFlowError):  # noqa: N818 - named like FlowTimeout
    """The process of a flow with a `timeout` ended before the flow did."""


class Cancelled(DataFlowError):  # noqa: N818 - the name is part of the contract
    """A pending run was ended before it started."""


class SessionControlError(DataFlowError):
    """A flow called commit, rollback or close on the session that the engine ends."""

    def __init__(self, call: str) -> None:
        super().__init__(
            f"run.session.{call}() was called, but the engine ends the transaction: it commits "
            "what the flow wrote together with the run's success. Remove the call; to undo a "
            "part, use `with run.session.begin_nested():`"
        )


class ResultError(DataFlowError, TypeError):
    """A flow returned something that cannot be stored as JSON."""


class ConfigurationError(DataFlowError, ValueError):
    """A flow's stored configuration is not a JSON object."""


class DatabaseNotReadyError(DataFlowError):
    """The database cannot be reached, or its tables are not at this engine's revision."""


def describe_faults(
    error: ValidationError, given: Mapping[str, Any], model: type[BaseModel], prefix: str = ""
) -> Iterator[str]:
    """Yield a line for each fault of an input: the name, the value, why, and a valid example.

    The values of fields that hold a secret are not shown, nor is the userinfo of a URL.
    """
    for fault in error.errors(include_url=False, include_context=False):
        reason = redact(fault["msg"].removeprefix("Value error, "), limit=2 * LONGEST_VALUE)
        if not fault["loc"]:  # of several fields together
            yield reason
            continue
        name = str(fault["loc"][0])
        field = model.model_fields.get(name)
        if field is None:
            yield f"{prefix}{name}: there is no such name"
            continue
        shown = redact(repr(given.get(name)), limit=LONGEST_VALUE)
        value = "(not shown)" if "Secret" in str(field.annotation) else shown
        example = f"; valid is, for example, {field.examples[0]}" if field.examples else ""
        yield f"{prefix}{name} is {value}: {reason}{example}".replace("\n", " ")

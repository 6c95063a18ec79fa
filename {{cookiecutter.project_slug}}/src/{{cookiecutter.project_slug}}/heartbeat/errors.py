"""The exceptions of the engine. Each message states what happened and how to fix it."""

from collections.abc import Mapping

from pyramid import exceptions


class DataFlowError(Exception):
    """The base of all errors that the engine raises itself."""


class SettingsError(DataFlowError, ValueError):
    """Settings are missing or invalid; the message has a line for each problem."""


class InclusionError(DataFlowError, exceptions.ConfigurationError):  # type: ignore[misc]
    """The engine is included in a way that cannot work; the message states the solution."""


class ScheduleError(DataFlowError, ValueError):
    """An interval, a cron expression, a time zone or a daily window cannot be used."""


class DeclarationError(DataFlowError, exceptions.ConfigurationError):  # type: ignore[misc]
    """A flow is declared in a way that cannot work; the message has a line for each problem.

    Never a ValueError: `config.scan` ignores those.
    """


class NameConflictError(DeclarationError, exceptions.ConfigurationConflictError):  # type: ignore[misc]
    """Two flows are declared with one name."""

    def __init__(self, message: str) -> None:
        DataFlowError.__init__(self, message)

    __str__ = DataFlowError.__str__


class UnknownFlowError(DataFlowError, LookupError):
    """No row of `data_flows` has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no flow is called {name!r}: `heartbeat flows` lists them")


class UnknownRunError(DataFlowError, LookupError):
    """No row of `data_flow_runs` has this id."""

    def __init__(self, run_id: int) -> None:
        super().__init__(f"there is no run {run_id}: `heartbeat runs` lists the newest ones")


class NameTakenError(DataFlowError):
    """The name that was given for a flow is the name of another flow."""


class InputError(DataFlowError, ValueError):
    """The input of an operator is invalid; `errors` has the reasons, by field."""

    def __init__(self, errors: Mapping[str, list[str]]) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{name}: {', '.join(why)}" for name, why in errors.items()))


class HandlerNotRegisteredError(DataFlowError, LookupError):
    """A row names a handler that no code in this process registers."""

    def __init__(self, name: str, handler: str) -> None:
        super().__init__(
            f"flow {name!r} needs the handler {handler!r}, which is not registered: fix its "
            f'declaration in flows/, or give the renamed function name="{handler}". Only if the '
            f"flow is no longer wanted, `heartbeat remove {name}` deletes it and its history"
        )


class ActiveRunError(DataFlowError):
    """A run was requested while another one of the same flow is pending or in progress."""

    def __init__(self, name: str) -> None:
        super().__init__(f"flow {name!r} has a run that has not ended: wait for it")


class StatusError(DataFlowError):
    """A change of a run's status is not allowed."""


class ClaimLostError(DataFlowError):
    """The run was reaped, removed or taken over while its flow was running."""

    def __init__(self, run_id: int) -> None:
        super().__init__(f"run {run_id} is no longer ours: the writes of its flow were rolled back")


class LeaseExpired(DataFlowError):  # noqa: N818 - the name is part of the contract
    """The lease of a run ended without a sign of life of its process."""


class Interrupted(DataFlowError):  # noqa: N818 - the name is part of the contract
    """A run's process was stopped, and its flow did not end in time."""

    def __init__(self, worker: str | None, grace: int) -> None:
        super().__init__(
            f"{worker} was stopped, and the flow did not end within the grace period of {grace} s: "
            "raise heartbeat.shutdown_grace, or divide the work of the flow into smaller runs"
        )


class FlowTimeout(DataFlowError):  # noqa: N818 - the name is part of the contract
    """A flow ran longer than its `timeout`, and its process was ended."""


class FlowProcessDied(DataFlowError):  # noqa: N818 - named like FlowTimeout
    """The process of a flow with a `timeout` ended before the flow did."""


class Cancelled(DataFlowError):  # noqa: N818 - the name is part of the contract
    """A pending run was ended before it started."""


class SessionControlError(DataFlowError):
    """A flow tried to end the transaction that the engine ends."""

    def __init__(self, call: str) -> None:
        super().__init__(
            f"the flow called {call}, but the engine ends the transaction: it commits what the "
            "flow wrote together with the run's success. Remove the call; to undo a part, use "
            "`with run.session.begin_nested():`"
        )


class SessionEndedError(DataFlowError):
    """A flow's session was used after its run had ended, or in a forked child of its process."""

    def __init__(self) -> None:
        super().__init__(
            "run.session has ended with its run, and does not exist in a forked child process: "
            "join threads and processes before the flow returns, and give those that write a "
            "session of their own"
        )


class SessionInUseError(DataFlowError):
    """A flow ended while another thread was executing a statement through its session."""

    def __init__(self) -> None:
        super().__init__(
            "the flow ended while a thread that it had started was using run.session: join the "
            "thread before the flow returns"
        )


class ResultError(DataFlowError, TypeError):
    """A flow returned something that cannot be stored as JSON."""


class ConfigurationError(DataFlowError, ValueError):
    """A flow's stored configuration is not a JSON object, or does not fit its model.

    is_unreadable: it is not a JSON object, so that no code can read it.
    """

    is_unreadable = False


class DatabaseNotReadyError(DataFlowError):
    """The database cannot be reached, or its tables are not at this engine's revision."""


class DatabaseBusyError(DataFlowError):
    """A flow holds SQLite's write lock, and the limit of waiting callers is reached."""

    def __init__(self) -> None:
        super().__init__(
            "a flow that has written holds SQLite's write lock until it ends: call again later"
        )


class SecondSessionError(DataFlowError):
    """A flow would wait for SQLite's write lock, which another session of its own holds."""

    def __init__(self) -> None:
        super().__init__(
            "SQLite's write lock is held by a second session of the same flow: write through "
            "run.session alone, or end the transaction of the second session first"
        )

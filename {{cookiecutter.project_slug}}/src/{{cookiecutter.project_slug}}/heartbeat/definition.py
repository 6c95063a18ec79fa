"""The validated declaration of a flow."""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BaseModel,
    BeforeValidator,
    Field,
    PlainValidator,
    Secret,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .durations import parse_every
from .errors import ConfigurationError
from .json_values import json_problem
from .schedules.between import read_between, read_zone
from .schedules.cron import read_cron
from .schedules.rule import Rule, next_after
from .validation import problems_in

Handler = Callable[..., Any]
MAX_INTEGER = 2**31 - 1  # of a column
# By option that needs an optional module: the attribute of Heartbeat that it sets, and its file.
_MODULES = {
    "timeout": ("execute_in_subprocess", "optional/timeouts.py"),
    "after": ("check_conditions", "optional/conditions.py"),
    "when": ("check_conditions", "optional/conditions.py"),
    "ping_url": ("pings", "optional/webhooks/"),
    "alert_after": ("alarms", "optional/alarms/"),
    "remind_every": ("alarms", "optional/alarms/"),
    "expect_success_within": ("alarms", "optional/alarms/"),
    "queue": ("queues", "optional/celery/"),
}
# No spaces around it: for MySQL, a name with a space at its end equals the one without. No leading
# dot: in a URL, ".." is the folder above. And no character that `printing` escapes.
_UNPRINTABLE = r"\p{Cc}\p{Cf}\p{Zl}\p{Zp}"
_NAME = rf"^[^./\s{_UNPRINTABLE}]([^/{_UNPRINTABLE}]*[^/\s{_UNPRINTABLE}])?$"

_CONTROLS = r"\x00-\x1f\x7f-\x9f"
# For JSON schemas, since many programs do not know \p. It allows some characters more.
_PORTABLE = {"pattern": rf"^[^./\s{_CONTROLS}]([^/{_CONTROLS}]*[^/\s{_CONTROLS}])?$"}

FlowName = Annotated[str, Field(max_length=200, pattern=_NAME, json_schema_extra=_PORTABLE)]
Interval = Annotated[int, BeforeValidator(parse_every, json_schema_input_type=int | str)]
Seconds = Interval | None
Cron = Annotated[str, Field(max_length=200), AfterValidator(lambda text: read_cron(text) and text)]
Zone = Annotated[str, Field(max_length=64), AfterValidator(lambda text: read_zone(text) and text)]
QueueName = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9_.-]+$")]
Between = Annotated[str, AfterValidator(lambda text: read_between(text) and text)]


def _is_named(name: str) -> str:
    if name == "<lambda>":
        raise ValueError("a lambda has no name: give one, or declare a function")
    return name


def _read_configuration(given: Any) -> dict[str, Any] | type[BaseModel]:
    is_model = isinstance(given, type) and issubclass(given, BaseModel)
    if not is_model and not isinstance(given, Mapping):
        raise ValueError("must be a dict, or a pydantic model")
    try:
        initial = _defaults_of(given) if is_model else dict(given)
    except (TypeError, RecursionError) as error:
        raise ValueError(error) from error
    if problem := json_problem(initial):
        raise ValueError(f"cannot be stored as JSON: {problem}")
    return given if is_model else initial


def _defaults_of(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_construct().model_dump(mode="json")


_Configuration = Annotated[dict[str, Any] | type[BaseModel], PlainValidator(_read_configuration)]


def check_function(function: Handler) -> Handler:
    """Return the function. Raises ValueError if it does not run when it is called with a run."""
    if isinstance(function, type):
        raise ValueError("is a class: declare a function, at the top of a module")  # noqa: TRY004
    # A function, or the method of a callable object.
    for code in (function, type(function).__call__):
        if inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code):
            raise ValueError("is async: declare a plain function, and use asyncio.run() inside it")
        if inspect.isgeneratorfunction(code):
            raise ValueError("is a generator, which runs nothing when called: return, do not yield")
    try:
        # The parameters of a decorator's wrapper, which is what is called.
        signature = inspect.signature(function, follow_wrapped=False)
    except ValueError:  # a function written in C may have no signature
        return function
    try:
        signature.bind("run")
    except TypeError as error:
        raise ValueError(f"takes {signature}, but is called with one argument, the run") from error
    return function


def is_importable(function: Handler | None) -> bool:
    """Return whether another process can import this function by its name."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    try:
        return module != "__main__" and pkgutil.resolve_name(f"{module}:{name}") is function
    except (ImportError, AttributeError, ValueError):
        return False


class FlowDefinition(BaseModel, frozen=True, extra="forbid"):
    """A registered flow, as the code declares it. Durations are in seconds."""

    function: Annotated[Handler, AfterValidator(check_function)] = Field(
        examples=["def greet(run)"]
    )
    place: str
    name: Annotated[FlowName, AfterValidator(_is_named)] = Field(examples=['name="import_orders"'])
    every: Seconds = Field(None, examples=['every="5m"'])
    cron: Cron | None = Field(None, examples=['cron="0 3 * * *"'])
    timezone: Zone = Field("UTC", examples=['timezone="Europe/Berlin"'])
    between: Between | None = Field(None, examples=['between="22:00-06:00"'])
    start: Literal["now", "next"] = Field("now", examples=['start="next"'])
    catch_up: Literal["once", "skip", "all"] = Field("once", examples=['catch_up="skip"'])
    grace: Seconds = Field(None, examples=['grace="10m"'])
    configuration: _Configuration = Field({}, examples=['configuration={"region": "eu"}'])
    description: str = Field("", examples=['description="Copy new orders"'])
    after: tuple[str, ...] = Field((), examples=['after=["extract"]'])
    when: Callable[..., object] | None = Field(None, examples=["when=is_open, a function"])
    retries: int = Field(0, ge=0, examples=["retries=3"])
    retry_delay: Interval = Field(60, examples=['retry_delay="1m"'])
    pause_after: int | None = Field(None, ge=1, examples=["pause_after=10"])
    on_lost: Literal["fail", "retry"] = Field("fail", examples=['on_lost="retry"'])
    timeout: Seconds = Field(None, examples=['timeout="10m"'])
    ping_url: Secret[AnyHttpUrl] | None = Field(
        None, examples=['ping_url="https://hc-ping.com/uuid"']
    )
    alert_after: int = Field(3, ge=1, examples=["alert_after=3"])
    remind_every: Interval = Field(86_400, examples=['remind_every="1d"'])
    expect_success_within: Seconds = Field(None, examples=['expect_success_within="2h"'])
    queue: QueueName | None = Field(None, examples=['queue="heavy"'])

    @field_validator(*_MODULES)
    @classmethod
    def _has_its_module(cls, value: object, info: ValidationInfo) -> object:
        hook, module = _MODULES[info.field_name or ""]
        if value and info.context and getattr(info.context, hook) is None:
            raise ValueError(f"needs the optional module {module} and its line in __init__.py")
        return value

    @field_validator("timeout")
    @classmethod
    def _can_run_in_subprocess(cls, timeout: int | None, info: ValidationInfo) -> int | None:
        if timeout is not None and not is_importable(info.data.get("function")):
            raise ValueError(
                "its process imports the function by name: define it at the top level of a module, "
                "and use functools.wraps in its decorators"
            )
        return timeout

    @model_validator(mode="after")
    def _has_one_schedule(self) -> Self:
        if (self.every is None) == (self.cron is None):
            raise ValueError(
                f"every is {self.every!r} and cron is {self.cron!r}: declare one of the two, every "
                'such as "30s", "5m", "2h" or "1d", or cron such as "0 3 * * *"'
            )
        next_after(self.rule, datetime.now(UTC))
        return self

    @property
    def schedule(self) -> str:
        """The declared schedule, as a row stores it."""
        return str(self.rule)

    @property
    def rule(self) -> Rule:
        """The rule of the declared schedule."""
        return Rule(self.every, self.cron, self.timezone, self.between, self.catch_up, self.grace)

    def rule_of(self, row: Any) -> Rule:
        """Return the rule of the schedule in a row of this handler.

        Raises ScheduleError for an invalid interval, which SQLite can store.
        """
        every = row.run_interval and parse_every(row.run_interval)
        return replace(self.rule, every=every, cron=row.cron, timezone=row.timezone)

    def failure_options(self) -> dict[str, str | int | None]:
        """Return the options that take effect after a failure, by column of the flow's row."""
        return {
            "on_lost": self.on_lost,
            "retries": min(self.retries, MAX_INTEGER),
            "retry_delay": self.retry_delay,
            "pause_after": self.pause_after and min(self.pause_after, MAX_INTEGER),
        }

    def new_configuration(self) -> dict[str, Any]:
        """Return the configuration of a new row: the declared one, or the defaults of the model."""
        if isinstance(self.configuration, dict):
            return self.configuration
        return _defaults_of(self.configuration)

    def configured(self, stored: dict[str, Any]) -> Any:
        """Return `run.configuration` for a stored one: as it is, or as the declared model.

        Raises ConfigurationError with each field that does not fit.
        """
        if isinstance(self.configuration, dict):
            return stored
        try:
            return self.configuration.model_validate(stored)
        except ValidationError as error:
            found = problems_in(error, stored, self.configuration, "field", "")
            problems = "; ".join(problem.line for problem in found)
            raise ConfigurationError(
                f"the flow's configuration does not fit: {problems}"
            ) from error

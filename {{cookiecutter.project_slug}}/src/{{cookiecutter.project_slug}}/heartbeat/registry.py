"""How a callable becomes a flow: the `flow` decorator and the `config.add_flow` directive."""

import inspect
import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self, TypedDict, TypeVar, Unpack

import venusian
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pyramid.config import PHASE3_CONFIG, Configurator
from pyramid.exceptions import ConfigurationConflictError

from .durations import parse_every
from .errors import ConfigurationError, DeclarationError, describe_faults
from .schedules.between import read_between, read_zone
from .schedules.cron import read_cron
from .schedules.rule import Rule, next_after

Handler = Callable[..., Any]
_HandlerType = TypeVar("_HandlerType", bound=Handler)
Duration = str | int | timedelta
# The options that are of no use without an optional module: what it sets on Heartbeat, and itself.
_MODULES = {
    "timeout": ("execute_apart", "executors/child.py"),
    "after": ("ask", "conditions.py"),
    "when": ("ask", "conditions.py"),
}
# No space around it: MySQL takes a name with and without one at its end for the same. No dot before
# it: in a URL, ".." is the folder above.
_NAME = r"^[^./\s\x00-\x1f\x7f]([^/\x00-\x1f\x7f]*[^/\s\x00-\x1f\x7f])?$"

FlowName = Annotated[str, Field(max_length=200, pattern=_NAME, examples=["import_orders"])]
Interval = Annotated[int, BeforeValidator(parse_every)]
Seconds = Interval | None
Cron = Annotated[str, Field(max_length=200), AfterValidator(lambda text: read_cron(text) and text)]
Zone = Annotated[str, Field(max_length=64), AfterValidator(lambda text: read_zone(text) and text)]
Between = Annotated[str, AfterValidator(lambda text: read_between(text) and text)]


class FlowOptions(TypedDict, total=False):
    """What a flow may declare: `every` or `cron`, and what it likes of the rest.

    name: the flow's name; the function's own by default.
    every: the interval, such as "5m", seconds or a timedelta.
    cron: five fields, or a word such as "@daily", read in `timezone`, such as "Europe/Berlin".
    between: the window of the day, such as "22:00-06:00" in `timezone`, that its slots lie in.
    start: "now" makes a new flow of `every` due at once, "next" after one interval.
    catch_up: of several slots that passed, "once" runs the latest, "skip" too if it is at most
        `grace` old (one interval by default), and "all" runs each, oldest first.
    configuration: what a new row starts with, a JSON object, which `run.configuration` reads; or a
        pydantic model whose fields have defaults, and `run.configuration` is one.
    description: one line for people; the docstring's first line by default.
    after: names of flows; it waits until each has succeeded since its own last success began.
    when: asked once a beat before a due flow runs, with a `run` whose session only reads: what it
        returns is true, or the flow waits; a text is the reason why.
    retries: how often a slot whose run failed is tried again: after `retry_delay`, "1m" by
        default, which doubles each time up to an hour.
    pause_after: so many failures in a row disable the flow.
    on_lost: what becomes of a slot whose run was lost with its process: "fail", or "retry".
    timeout: how long a run may take, such as "10m". It has a process of its own, which is ended
        then; the function must stand at the top of a module, where that process finds it.
    """

    name: str
    every: Duration
    cron: str
    timezone: str
    between: str
    start: Literal["now", "next"]
    catch_up: Literal["once", "skip", "all"]
    grace: Duration
    configuration: Mapping[str, Any] | type[BaseModel]
    description: str
    after: Sequence[str]
    when: Callable[..., object]
    retries: int
    retry_delay: Duration
    pause_after: int
    on_lost: Literal["fail", "retry"]
    timeout: Duration | None


def _is_no_coroutine(function: Handler) -> Handler:
    if inspect.iscoroutinefunction(function):
        raise ValueError("is async: declare a plain function, and use asyncio.run() inside it")
    return function


def _is_json(given: dict[str, Any] | type[BaseModel]) -> dict[str, Any] | type[BaseModel]:
    try:
        json.dumps(given if isinstance(given, dict) else {}, allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(error) from error
    return given


_Configuration = Annotated[dict[str, Any] | type[BaseModel], AfterValidator(_is_json)]


class FlowDefinition(BaseModel, frozen=True, extra="forbid"):
    """A registered flow: what the code declares. Durations are in seconds."""

    function: Annotated[Handler, AfterValidator(_is_no_coroutine)]
    place: str
    name: FlowName
    every: Seconds = Field(None, examples=["5m"])
    cron: Cron | None = Field(None, examples=["0 3 * * *"])
    timezone: Zone = Field("UTC", examples=["Europe/Berlin"])
    between: Between | None = Field(None, examples=["22:00-06:00"])
    start: Literal["now", "next"] = Field("now", examples=["next"])
    catch_up: Literal["once", "skip", "all"] = Field("once", examples=["skip"])
    grace: Seconds = Field(None, examples=["10m"])
    configuration: _Configuration = Field({}, examples=[{"region": "eu"}])
    description: str = Field("", examples=["Copy new orders"])
    after: tuple[str, ...] = Field((), examples=[["extract"]])
    when: Callable[..., object] | None = Field(None, examples=["a function"])
    retries: int = Field(0, ge=0, examples=["3"])
    retry_delay: Interval = Field(60, examples=["1m"])
    pause_after: int | None = Field(None, ge=1, examples=["10"])
    on_lost: Literal["fail", "retry"] = Field("fail", examples=["retry"])
    timeout: Seconds = Field(None, examples=["10m"])

    @field_validator(*_MODULES)
    @classmethod
    def _has_its_module(cls, value: object, info: ValidationInfo) -> object:
        hook, module = _MODULES[info.field_name or ""]
        if value and getattr(info.context, hook) is None:
            raise ValueError(
                f"needs the optional module {module} and its line in the engine's __init__"
            )
        return value

    @field_validator("timeout")
    @classmethod
    def _can_run_apart(cls, timeout: int | None, info: ValidationInfo) -> int | None:
        if timeout is not None and not _is_importable(info.data.get("function")):
            raise ValueError(
                "its process must find the function by name, so put it at the top of a module, and "
                "functools.wraps into what decorates it"
            )
        return timeout

    @model_validator(mode="after")
    def _has_one_schedule(self) -> Self:
        if (self.every is None) == (self.cron is None):
            raise ValueError(
                f"every is {self.every!r} and cron is {self.cron!r}: declare one of the two, every "
                'such as "30s", "5m", "2h" or "1d", or cron such as "0 3 * * *"'
            )
        next_after(self.rule_of(self), datetime.now(UTC))
        return self

    @property
    def schedule(self) -> str:
        """The declared schedule, in the words that a row keeps it in."""
        return str(self.rule_of(self))

    def rule_of(self, row: Any) -> Rule:
        """Return the rule of a row of this handler; of the definition itself, what it declares.

        Raises DeclarationError for an interval that is none: SQLite keeps what is written by hand.
        """
        every = (given := getattr(row, "run_interval", self.every)) and parse_every(given)
        return Rule(every, row.cron, row.timezone, self.between, self.catch_up, self.grace)

    def new_configuration(self) -> dict[str, Any]:
        """Return what a new row starts with: what is declared, or the defaults of the model."""
        if isinstance(self.configuration, dict):
            return self.configuration
        return self.configuration.model_construct().model_dump(mode="json")

    def configured(self, stored: dict[str, Any]) -> Any:
        """Return `run.configuration` for what a row holds: that, or the declared model of it.

        Raises ConfigurationError with each field that does not fit.
        """
        if isinstance(self.configuration, dict):
            return stored
        try:
            return self.configuration.model_validate(stored)
        except ValidationError as error:
            told = "; ".join(describe_faults(error, stored, self.configuration))
            raise ConfigurationError(f"the flow's configuration does not fit: {told}") from error


def _is_importable(function: Handler | None) -> bool:
    """Tell whether another process gets this very function by importing it by its name."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    try:
        return module != "__main__" and pkgutil.resolve_name(f"{module}:{name}") is function
    except (ImportError, AttributeError, ValueError):
        return False


def flow(**options: Unpack[FlowOptions]) -> Callable[[_HandlerType], _HandlerType]:
    """Declare the decorated function as a flow, with FlowOptions; `config.scan` finds it."""

    def decorate(function: _HandlerType) -> _HandlerType:
        def register(context: Any, _name: str, function: Handler) -> None:
            config = context.config.with_package(info.module)
            config.add_flow(function, **options, _info=info.codeinfo)

        # Called here and nowhere deeper: venusian looks one frame up for the module to scan.
        info = venusian.attach(function, register, category="pyramid", depth=1)
        return function

    return decorate


def add_flow(config: Configurator, function: Handler, **options: Unpack[FlowOptions]) -> None:
    """Register `function` as a flow: the directive beneath the decorator, with its arguments.

    Raises DeclarationError for what cannot work. Two flows of one name are a conflict, with both
    places named, on whatever level of inclusion they stand.
    """
    info = config.action_info
    heartbeat = config.registry["heartbeat"]
    given = {
        "name": getattr(function, "__name__", None),
        "description": (inspect.getdoc(function) or "").partition("\n")[0],
        **options,
        "function": function,
        "place": f"{info.file}, line {info.line}",
    }
    try:
        definition = FlowDefinition.model_validate(given, context=heartbeat)
    except ValidationError as error:
        told = "\n  ".join(describe_faults(error, given, FlowDefinition))
        raise DeclarationError(f"{given['place']}: flow {given['name']!r}:\n  {told}") from error
    name = definition.name
    config.registry["heartbeat.places"].setdefault(name, []).append(info)

    introspectable = config.introspectable("data flows", name, name, "data flow")
    introspectable.update(dict(definition))
    config.action(
        ("heartbeat flow", name),
        lambda: heartbeat.flows.__setitem__(name, definition),
        introspectables=(introspectable,),
    )


def refuse_one_name_twice(config: Configurator) -> None:
    """Add the late action that finds two flows of one name.

    Pyramid's own check of conflicts does not do it: where the two stand on different levels of
    inclusion, the outer one wins without a word.
    """

    def check() -> None:
        twice = {
            ("heartbeat flow", name): infos
            for name, infos in config.registry["heartbeat.places"].items()
            if len({(info.file, info.line) for info in infos}) > 1
        }
        if twice:
            raise ConfigurationConflictError(twice)

    config.action("heartbeat flow names", check, order=PHASE3_CONFIG + 10)

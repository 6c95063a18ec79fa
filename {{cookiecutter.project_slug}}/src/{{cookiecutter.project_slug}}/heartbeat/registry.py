"""How a callable becomes a flow: the `flow` decorator and the `config.add_flow` directive."""

import inspect
import json
import pkgutil
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, TypedDict, TypeVar, Unpack

import venusian
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pyramid.config import PHASE3_CONFIG, Configurator
from pyramid.exceptions import ConfigurationConflictError

from .durations import format_every, parse_every
from .errors import DeclarationError, describe_faults

Handler = Callable[..., Any]
_HandlerType = TypeVar("_HandlerType", bound=Handler)
# No space around it: MySQL takes a name with and without one at its end for the same.
_NAME = r"^[^/\s\x00-\x1f\x7f]([^/\x00-\x1f\x7f]*[^/\s\x00-\x1f\x7f])?$"


class FlowOptions(TypedDict, total=False):
    """What a flow may declare besides its schedule.

    name: the flow's name; the function's own by default.
    start: "now" makes a new flow due at once, "next" after one interval.
    configuration: what a new row starts with, a JSON object; the flow reads `run.configuration`.
    description: one line for people; the docstring's first line by default.
    on_lost: what becomes of a slot whose run was lost with its process: "fail", or "retry".
    timeout: how long a run may take, such as "10m". It has a process of its own, which is ended
        then; the function must stand at the top of a module, where that process finds it.
    """

    name: str
    start: Literal["now", "next"]
    configuration: Mapping[str, Any]
    description: str
    on_lost: Literal["fail", "retry"]
    timeout: str | int | timedelta | None


def _seconds_or_none(value: object) -> int | None:
    return None if value is None else parse_every(value)


class FlowDefinition(BaseModel):
    """A registered flow: what the code declares. `every` and `timeout` are in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    function: Handler
    place: str
    name: str = Field(max_length=200, pattern=_NAME, examples=["import_orders"])
    every: Annotated[int, BeforeValidator(parse_every)] = Field(examples=["5m"])
    start: Literal["now", "next"] = Field("now", examples=["next"])
    configuration: dict[str, Any] = Field(default_factory=dict, examples=[{"region": "eu"}])
    description: str = Field("", examples=["Copy new orders"])
    on_lost: Literal["fail", "retry"] = Field("fail", examples=["retry"])
    timeout: Annotated[int | None, BeforeValidator(_seconds_or_none)] = Field(
        None, examples=["10m"]
    )

    @field_validator("configuration")
    @classmethod
    def _is_json(cls, configuration: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(configuration, allow_nan=False)
        except (TypeError, RecursionError) as error:
            raise ValueError(error) from error
        return configuration

    @field_validator("function")
    @classmethod
    def _is_no_coroutine(cls, function: Handler) -> Handler:
        if inspect.iscoroutinefunction(function):
            raise ValueError("is async: declare a plain function, and use asyncio.run() inside it")
        return function

    @field_validator("timeout")
    @classmethod
    def _can_run_apart(cls, timeout: int | None, info: ValidationInfo) -> int | None:
        if timeout is not None and not (info.context and info.context["can_run_apart"]):
            raise ValueError(
                "needs the optional module executors/child.py and its line in the engine's __init__"
            )
        if timeout is not None and not _is_importable(info.data.get("function")):
            raise ValueError(
                "its process must find the function by name, so put it at the top of a module, and "
                "functools.wraps into what decorates it"
            )
        return timeout

    @property
    def schedule(self) -> str:
        """The declared schedule, in the words that a row keeps it in."""
        return f"every {format_every(self.every)}"


def _is_importable(function: Handler | None) -> bool:
    """Tell whether another process gets this very function by importing it by its name."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    try:
        return module != "__main__" and pkgutil.resolve_name(f"{module}:{name}") is function
    except (ImportError, AttributeError, ValueError):
        return False


def flow(
    *, every: str | int | timedelta, **options: Unpack[FlowOptions]
) -> Callable[[_HandlerType], _HandlerType]:
    """Declare the decorated function as a flow; `config.scan` finds it.

    every: the interval, such as "5m", seconds or a timedelta. The options are FlowOptions.
    """

    def decorate(function: _HandlerType) -> _HandlerType:
        def register(context: Any, _name: str, function: Handler) -> None:
            config = context.config.with_package(info.module)
            config.add_flow(function, every=every, **options, _info=info.codeinfo)

        # Called here and nowhere deeper: venusian looks one frame up for the module to scan.
        info = venusian.attach(function, register, category="pyramid", depth=1)
        return function

    return decorate


def add_flow(
    config: Configurator,
    function: Handler,
    *,
    every: str | int | timedelta,
    **options: Unpack[FlowOptions],
) -> None:
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
        "every": every,
        "function": function,
        "place": f"{info.file}, line {info.line}",
    }
    try:
        context = {"can_run_apart": heartbeat.execute_apart is not None}
        definition = FlowDefinition.model_validate(given, context=context)
    except ValidationError as error:
        told = "\n  ".join(describe_faults(error, given, FlowDefinition))
        raise DeclarationError(f"{given['place']}: flow {given['name']!r}:\n  {told}") from error
    places = config.registry["heartbeat.places"]
    places.setdefault(definition.name, []).append(info)

    introspectable = config.introspectable(
        "data flows", definition.name, definition.name, "data flow"
    )
    introspectable.update(definition.model_dump())
    config.action(
        ("heartbeat flow", definition.name),
        lambda: heartbeat.flows.__setitem__(definition.name, definition),
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

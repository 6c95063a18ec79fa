"""How a callable becomes a flow: the `flow` decorator and the `config.add_flow` directive."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, Never, TypedDict, TypeVar, Unpack

import venusian
from pydantic import BaseModel, ValidationError
from pyramid.config import Configurator

from .definition import FlowDefinition
from .errors import DeclarationError, NameConflictError
from .handlers import Handler
from .redaction import error_text
from .validation import describe_problems

_HandlerType = TypeVar("_HandlerType", bound=Handler)
Duration = str | int | timedelta


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
    pause_after: this many failures in a row disable the flow.
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


def flow(
    *positional: Never, **options: Unpack[FlowOptions]
) -> Callable[[_HandlerType], _HandlerType]:
    """Declare the decorated function as a flow, with FlowOptions; `config.scan` finds it."""
    if positional:
        raise _misplaced("needs its options by name and in parentheses")

    def decorate(function: _HandlerType) -> _HandlerType:
        def register(context: Any, _name: str, function: Handler) -> None:
            config = context.config.with_package(info.module)
            if "heartbeat" not in config.registry:
                place = f"{info.codeinfo[0]}, line {info.codeinfo[1]}"
                include = f'config.include("{__package__}") before config.scan()'
                raise DeclarationError(f"{place}: @flow needs the engine: call {include}")
            config.add_flow(function, **options, _info=info.codeinfo)

        try:
            # Called here and nowhere deeper: venusian looks one frame up for the module to scan.
            info = venusian.attach(function, register, category="pyramid", depth=1)
        except AttributeError:
            raise _misplaced(f"cannot mark {function!r}, but only a function of Python") from None
        return function

    return decorate


def _misplaced(problem: str) -> DeclarationError:
    """Return the error of a decorator that cannot decorate, with its place."""
    caller = sys._getframe(2)  # noqa: SLF001 - as venusian finds the place of others
    place = f"{caller.f_code.co_filename}, line {caller.f_lineno}"
    return DeclarationError(f'{place}: @flow {problem}; valid is, for example, @flow(every="5m")')


def add_flow(config: Configurator, function: Handler, **options: Unpack[FlowOptions]) -> None:
    """Register `function` as a flow: the directive beneath the decorator, with its arguments.

    Raises DeclarationError for what cannot work, and NameConflictError for a name that another
    declaration has, on whatever level of inclusion the two stand.
    """
    definition = _define(config, function, options)
    name, heartbeat = definition.name, config.registry["heartbeat"]
    known = config.registry["heartbeat.declared"].setdefault(name, definition)
    if known != definition:
        raise NameConflictError(
            f"{definition.place}: flow {name!r}: {known.place} declares a flow of this name "
            'already: rename one of them, for example with name="import_orders"'
        )
    if known is not definition:  # found by a second scan
        return
    introspectable = config.introspectable("data flows", name, name, "data flow")
    introspectable.update(dict(definition))
    config.action(
        ("heartbeat flow", name),
        lambda: heartbeat.flows.__setitem__(name, definition),
        introspectables=(introspectable,),
    )


def _define(config: Configurator, function: Handler, options: FlowOptions) -> FlowDefinition:
    place = f"{config.action_info.file}, line {config.action_info.line}"
    given = {"name": getattr(function, "__name__", None), **options}
    cause: Exception
    try:
        given.setdefault("description", (inspect.getdoc(function) or "").partition("\n")[0])
        given |= {"function": function, "place": place}
        return FlowDefinition.model_validate(given, context=config.registry["heartbeat"])
    except ValidationError as error:
        problems, cause = [*describe_problems(error, given, FlowDefinition, "option")], error
    except Exception as error:  # noqa: BLE001 - scan would ignore some, and none has the place
        problems, cause = [f"cannot be declared: {error_text(error)}"], error
    name = f"flow {given['name']!r}" if isinstance(given["name"], str) else "flow"
    raise DeclarationError(
        "\n".join(f"{place}: {name}: {problem}" for problem in problems)
    ) from cause

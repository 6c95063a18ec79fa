"""Registration of flows: the `flow` decorator and the `config.add_flow` directive."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, Never, TypedDict, TypeVar, Unpack

import venusian
from pydantic import BaseModel, ValidationError
from pyramid.config import Configurator

from .definition import FlowDefinition, Handler
from .errors import DeclarationError, NameConflictError
from .redaction import error_text
from .validation import problems_in

# The attribute of a decorated function that has its FlowOptions.
OPTIONS = "__heartbeat_options__"

_HandlerType = TypeVar("_HandlerType", bound=Handler)
Duration = str | int | timedelta


class FlowOptions(TypedDict, total=False):
    """The options of a flow: `every` or `cron`, and any of the others.

    name: the flow's name; the function's own by default.
    every: the interval, such as "5m", seconds or a timedelta.
    cron: five fields, or a word such as "@daily", read in `timezone`, such as "Europe/Berlin".
    between: the daily window of its slots, such as "22:00-06:00", in `timezone`.
    start: "now" makes a new flow of `every` due at once, "next" after one interval.
    catch_up: which of several slots that have passed run. "once" runs the latest; "skip" does so if
        it is at most `grace` old (one interval by default); "all" runs each, oldest first.
    configuration: the initial JSON object of a new row, which `run.configuration` returns; or a
        pydantic model whose fields have defaults, of which `run.configuration` is an instance.
    description: one line; the first line of the docstring by default.
    after: names of flows. This one waits until each of them has succeeded since its own last
        success began.
    when: a function that each beat calls when the flow is due, with a `run` whose session only
        reads. If it returns false or a text, the flow waits; the text is the reason.
    retries: how often a failed slot is retried, after `retry_delay`: "1m" by default, doubled each
        time up to an hour.
    pause_after: the number of failures in a row that disables the flow.
    on_lost: whether a slot whose run was lost with its process fails, "fail", or runs again,
        "retry".
    timeout: how long a run may take, such as "10m". The run has its own process, which is ended
        after that time. The function must be at the top level of a module.
    ping_url: a URL that each run of the flow is reported to, in the format of healthchecks.io.
    alert_after: the number of failures in a row that raises the alarm; 3 by default.
    remind_every: how often the alarm is repeated while it lasts; "1d" by default.
    expect_success_within: the flow is stale when its last success is older than this.
    queue: the name of the queue of its runs, where Celery executes them.
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
    ping_url: str | None
    alert_after: int
    remind_every: Duration
    expect_success_within: Duration | None
    queue: str | None


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
            # Called directly here: venusian looks one frame up for the module to scan.
            info = venusian.attach(function, register, category="pyramid", depth=1)
            setattr(function, OPTIONS, options)
        except AttributeError:
            raise _misplaced(f"cannot mark {function!r}: decorate a Python function") from None
        return function

    return decorate


def _misplaced(problem: str) -> DeclarationError:
    """Return the error of a decorator that is used in the wrong way, with its place."""
    caller = sys._getframe(2)  # noqa: SLF001 - as venusian finds the place of others
    place = f"{caller.f_code.co_filename}, line {caller.f_lineno}"
    return DeclarationError(f'{place}: @flow {problem}; valid is, for example, @flow(every="5m")')


def add_flow(config: Configurator, function: Handler, **options: Unpack[FlowOptions]) -> None:
    """Register `function` as a flow: the directive beneath the decorator, with its arguments.

    Raises DeclarationError for an invalid declaration, and NameConflictError for a name that is
    declared twice, even on different levels of inclusion.
    """
    place = f"{config.action_info.file}, line {config.action_info.line}"
    definition = define(function, options, place, config.registry["heartbeat"])
    name = definition.name
    heartbeat = config.registry["heartbeat"]
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


def define(
    function: Handler, options: FlowOptions, place: str, heartbeat: object = None
) -> FlowDefinition:
    """Return the validated declaration of a flow. Raises DeclarationError, which names `place`.

    heartbeat: whose optional modules the options need; None for a flow that is not scheduled.
    """
    given = {"name": getattr(function, "__name__", None), **options}
    try:
        given.setdefault("description", (inspect.getdoc(function) or "").partition("\n")[0])
        given |= {"function": function, "place": place}
        return FlowDefinition.model_validate(given, context=heartbeat)
    except ValidationError as error:
        found = problems_in(error, given, FlowDefinition, "option", "")
        raise _invalid(place, given["name"], [problem.line for problem in found]) from error
    except Exception as error:  # whose message has no place; a scan ignores some of them
        problem = f"cannot be declared: {error_text(error)}"
        raise _invalid(place, given["name"], [problem]) from error


def _invalid(place: str, name: object, problems: list[str]) -> DeclarationError:
    flow_name = f"flow {name!r}" if isinstance(name, str) else "flow"
    return DeclarationError("\n".join(f"{place}: {flow_name}: {line}" for line in problems))

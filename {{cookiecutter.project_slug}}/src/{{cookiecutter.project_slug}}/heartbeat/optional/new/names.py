"""The name of a new flow, which is the name of its module and of its function too."""

import builtins
import keyword
import re
from contextlib import suppress
from importlib.util import find_spec

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from ...core import Heartbeat
from ...errors import DataFlowError
from ...migrations import require_current
from ...models import DataFlow

# What the module of a flow or its test calls by these names.
USED = {"flow", "run", "run_flow", "dbsession"}
# What pytest calls or reads in the module of a test, which imports the flow.
FIXTURES = tuple(f"{when}_{of}" for when in ("setup", "teardown") for of in ("module", "function"))
OF_PYTEST = ("test", "pytest", *FIXTURES)


def check_name(name: str) -> None:
    """Raise DataFlowError, with another name, if a module and a function cannot be called so."""
    reason = _problem(name)
    if not reason:
        return
    better = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if not better[:1].isalpha() or better.startswith(OF_PYTEST):
        better = f"flow_{better}".rstrip("_")
    while _problem(better):
        better += "_data"
    message = f"{name!r} cannot be the name of a new flow: {reason}, for example {better}"
    raise DataFlowError(message)


def _problem(name: str) -> str:
    """Return why a name cannot be used; empty if it can."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        return "write lower-case letters, digits and underscores"
    if keyword.iskeyword(name) or name in USED or hasattr(builtins, name):
        return "it has a meaning in Python, or in the module of a flow or its test"
    if name.startswith(OF_PYTEST):
        return "pytest would call the flow, or read it"
    if name == "l":
        return "ruff refuses it, since it looks like 1"
    if find_spec(name) is not None:
        return "a module of Python or of an installed package has it"
    return ""


def require_new(heartbeat: Heartbeat, name: str) -> None:
    """Raise DataFlowError if there is a flow of this name, in the code or in the database."""
    exists = name in heartbeat.flows
    # Without a database, a flow is written all the same.
    with suppress(DataFlowError, DBAPIError):
        require_current(heartbeat.engine)
        with heartbeat.session() as session:
            row = session.scalar(select(DataFlow.id).where(DataFlow.name == name))
            exists = exists or row is not None
    if exists:
        raise DataFlowError(f"there is a flow {name!r} already: choose another name")

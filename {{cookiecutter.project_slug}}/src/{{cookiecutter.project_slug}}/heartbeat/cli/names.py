"""Names of flows as arguments, which a shell can complete."""

from contextlib import suppress

import click
from click.shell_completion import CompletionItem
from sqlalchemy import select

from ..models import DataFlow
from .application import application


class FlowNameType(click.types.StringParamType):
    """The name of a flow. Whether there is such a flow is checked by the command."""

    name = "name"

    def shell_complete(
        self, ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the flows whose names begin so; none if the application does not start."""
        names: set[str] = set()
        with (
            suppress(Exception),
            application(ctx.params["config"]) as heartbeat,
            heartbeat.session() as session,
        ):
            names.update(heartbeat.flows, session.scalars(select(DataFlow.name)))
        return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


FLOW_NAME = FlowNameType()
name_argument = click.argument("name", type=FLOW_NAME)

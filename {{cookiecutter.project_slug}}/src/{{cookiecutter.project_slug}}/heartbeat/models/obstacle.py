"""What keeps a flow from running: asked by claims, explained by `why`."""

from typing import NamedTuple

from sqlalchemy import ColumnElement


class Obstacle(NamedTuple):
    """One reason why a flow does not run.

    absent: what holds where the obstacle is not there, so that claims can use an index.
    sentence: the reason for people, a format of what `why` knows of the flow.
    """

    name: str
    absent: ColumnElement[bool]
    sentence: str

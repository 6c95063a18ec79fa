"""The obstacles that keep a flow from running: conditions of claims, explained by `why`."""

from typing import NamedTuple

from sqlalchemy import ColumnElement


class Obstacle(NamedTuple):
    """One reason why a flow does not run.

    absent: the condition of flows without the obstacle, in a form for which claims use an index.
    sentence: the reason in words, with placeholders that `why` fills in.
    """

    name: str
    absent: ColumnElement[bool]
    sentence: str

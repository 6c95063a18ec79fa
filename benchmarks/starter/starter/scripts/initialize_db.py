"""Insert the first row: `initialize_starter_db development.ini`."""

from __future__ import annotations

import sys

from pyramid.paster import bootstrap, setup_logging

from starter.models import MyModel  # type: ignore[import-not-found]


def main() -> None:
    """Insert the row that the home page shows, in the application's environment."""
    setup_logging(sys.argv[1])
    with bootstrap(sys.argv[1]) as environment:
        request = environment["request"]
        with request.tm:
            request.dbsession.add(MyModel(name="one", value=1))

"""What an operator writes by commands is kept, whatever the default character set is."""

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import make_url, select
from sqlalchemy.orm import Session

from data_flows.heartbeat.db import Limits, make_engine
from data_flows.heartbeat.models import DataFlow

from .conftest import Command

OWL = "Käuzchen 🦉"


@pytest.fixture
def session(narrow_url: str) -> Iterator[Session]:
    """Open a session on the database, to look."""
    engine = make_engine(make_url(narrow_url), limits=Limits(write_lock=10))
    with Session(engine) as session:
        yield session
    engine.dispose()


def test_commands_take_any_unicode(command: Command, session: Session, character_set: str) -> None:
    results = [
        command("add", OWL, "--handler", "good", "--every", "5m", "--set", f"greeting={OWL}"),
        command("pause", OWL, "--reason", OWL),
        command("why", OWL),
        command("rename", OWL, "🦉"),
        command("resume", "🦉"),
        command("why", "🦉", "--json"),
    ]

    assert [result.exit_code for result in results] == [0] * len(results), results
    escapes = {"LATIN1": r"Käuzchen \U0001f989", "SQL_ASCII": r"K\xe4uzchen \U0001f989"}
    assert escapes.get(character_set, OWL) in results[2].output
    assert json.loads(results[-1].output)["name"] == "🦉"
    row = session.scalars(select(DataFlow).filter_by(name="🦉")).one()
    assert row.configuration == {"greeting": OWL}

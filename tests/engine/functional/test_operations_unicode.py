"""What an operator writes over HTTP is kept, whatever the default character set is."""

import pytest
from webtest import TestApp

from ..conftest import MakeApp
from .operated import SECRET, Call, add_flow, as_operator, count

OWL = "Käuzchen 🦉"


@pytest.fixture
def app(narrow_url: str, make_app: MakeApp) -> TestApp:
    """Make an application on a database of another character set."""
    del narrow_url  # which DATABASE_URL names
    return make_app((count, {"name": "count"}), **SECRET)


@pytest.fixture
def owl_call(app: TestApp) -> Call:
    """Call it as the operator, when a flow of any name was added."""
    call = as_operator(app)
    add_flow(call, OWL, configuration={"🦉": OWL})
    return call


PATH = "/flows/K%C3%A4uzchen%20%F0%9F%A6%89"


def test_a_flow_is_added_changed_run_and_removed_by_its_name(owl_call: Call) -> None:
    flow = owl_call("GET", PATH, status=200).json
    changed = owl_call("PATCH", PATH, {"configuration": {"b": "🦉🦉"}}, status=200).json
    run = owl_call("POST", f"{PATH}/runs", status=202).json
    listed = owl_call("GET", "/flows", status=200).json["flows"]
    owl_call("DELETE", PATH, status=204)

    assert (flow["name"], flow["configuration"]) == (OWL, {"🦉": OWL})
    assert changed["configuration"] == {"b": "🦉🦉"}
    assert run["flow"] == OWL
    assert OWL in {each["name"] for each in listed}
    owl_call("GET", PATH, status=404)


def test_a_flow_is_renamed_to_anything(owl_call: Call) -> None:
    renamed = owl_call("PATCH", PATH, {"name": "🦉🦉"}, status=200).json

    assert renamed["name"] == "🦉🦉"
    owl_call("GET", "/flows/%F0%9F%A6%89%F0%9F%A6%89", status=200)


def test_names_compare_character_by_character(owl_call: Call) -> None:
    add_flow(owl_call, OWL, status=409)
    add_flow(owl_call, OWL.lower())
    add_flow(owl_call, OWL.replace("ä", "a"))
    add_flow(owl_call, OWL.replace("🦉", r"\U0001f989"))

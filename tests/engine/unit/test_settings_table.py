"""What the code, the .ini files and the README say of the settings is the same."""

import re
from configparser import ConfigParser
from pathlib import Path

import pytest

from data_flows.heartbeat.settings import Settings

PROJECT = Path(__file__).parents[3]
README = (PROJECT / "README.md").read_text("utf-8")
# `heartbeat.name` and, where there is one, its default in the next cell or in brackets.
MENTIONED = re.compile(r"`heartbeat\.([a-z_]+)`(?:\s*(?:\||\()\s*`([^`]+)`)?")

# The README of a project that runs its flows by itself is silent about these.
OF_CELERY = {"celery_broker_url", "redeliver_after"}


def documented() -> dict[str, str]:
    """Return the settings that the README names, each with the default that it gives."""
    mentioned = sorted(MENTIONED.findall(README), key=lambda found: found[1] != "")
    return {name: default for name, default in mentioned if name != "py"}


def test_the_readme_names_every_setting_and_no_other() -> None:
    assert set(documented()) == set(Settings.model_fields) - OF_CELERY


@pytest.mark.parametrize("name", sorted(Settings.model_fields.keys() - OF_CELERY))
def test_the_default_that_the_readme_gives_is_the_codes(name: str) -> None:
    default = documented()[name]

    if default:
        assert getattr(Settings.read({f"heartbeat.{name}": default}, {}), name) == getattr(
            Settings.read({}, {}), name
        )
    else:
        assert getattr(Settings.read({}, {}), name) is None


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_an_example_that_is_valid(name: str) -> None:
    (example,) = Settings.model_fields[name].examples or []
    given = {f"heartbeat.{name}": example.replace("what `openssl rand -hex 32` prints", "f4" * 20)}

    Settings.read({"pyramid.reload_templates": "true", **given}, {})


@pytest.mark.parametrize("file", ["development.ini", "production.ini", "testing.ini"])
def test_an_ini_file_has_no_setting_that_the_code_does_not_know(file: str) -> None:
    parser = ConfigParser(defaults={"here": str(PROJECT)})
    parser.read(PROJECT / file, "utf-8")
    section = dict(parser["app:main"])

    settings = Settings.read(section, {})

    given = {name for name in section if name.startswith("heartbeat.")}
    assert given <= {f"heartbeat.{name}" for name in type(settings).model_fields}
    if file != "testing.ini":
        assert {"heartbeat.token_file", "heartbeat.operator_token_file"} <= given


@pytest.mark.parametrize("file", ["development.ini", "production.ini"])
def test_the_servers_hand_over_what_the_door_asks_for(file: str) -> None:
    parser = ConfigParser(defaults={"here": str(PROJECT)})
    parser.read(PROJECT / file, "utf-8")
    server = parser["server:main"]

    assert server["use"] == "egg:data_flows#server"
    assert server["threads"] == "8"
    assert server["clear_untrusted_proxy_headers"] == "false"
    assert "trusted_proxy" not in server
    assert server["listen"].startswith("localhost:")

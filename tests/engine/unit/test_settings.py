"""Reading of settings: valid values, invalid ones, and the report of problems."""

from pathlib import Path
from typing import Any

import pytest

from data_flows.heartbeat.errors import SettingsError
from data_flows.heartbeat.settings import Settings


def read(**ini: str) -> Settings:
    """Read settings as from an .ini file, given without the prefix."""
    given = {f"heartbeat.{name}": value for name, value in ini.items()}
    return Settings.read({"sqlalchemy.url": "sqlite://", **given}, {})


def test_without_any_setting_the_defaults_hold() -> None:
    settings = read()

    assert settings.path == "/heartbeat"
    assert settings.token is None
    assert settings.token_file is None
    assert settings.require_token is True
    assert (settings.workers, settings.wait, settings.lease) == (4, 25, 300)
    assert settings.executor == "local"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("path", "/ops/pulse-1", "/ops/pulse-1"),
        ("token_file", "/srv/beat.token", Path("/srv/beat.token")),
        ("require_token", "false", False),
        ("require_token", "No", False),
        ("workers", "1", 1),
        ("wait", "2m", 120),
        ("wait", "0", 0),
        ("wait", "0s", 0),
        ("lease", "90", 90),
        ("lease", "1h", 3600),
    ],
)
def test_a_setting_is_read_into_its_type(name: str, value: str, expected: object) -> None:
    assert getattr(read(**{name: value}), name) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("path", "heartbeat"),
        ("path", "/"),
        ("path", "/.."),
        ("path", "/a/./b"),
        ("path", "/heartbeat/"),
        ("path", ""),
        ("path", "/a b"),
        ("path", "/a/{b}"),
        ("path", "/a?b"),
        ("require_token", "perhaps"),
        ("workers", "0"),
        ("workers", "many"),
        ("workers", "1.5"),
        ("wait", "-1"),
        ("wait", "soon"),
        ("wait", "2h"),
        ("lease", "1"),
        ("lease", "0"),
        ("executor", "threads"),
    ],
)
def test_a_problem_names_the_setting_its_value_and_a_valid_example(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(**{name: value})

    reported = str(caught.value)
    assert f"heartbeat.{name} is {value!r}: " in reported
    example = reported.partition("for example, ")[2].removeprefix(f"heartbeat.{name} = ")
    assert getattr(read(**{name: example}), name) is not None


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(SettingsError) as caught:
        read(path="x", workers="0", wait="soon", lease="1")

    reported = str(caught.value)
    assert all(f"heartbeat.{name} is" in reported for name in ("path", "workers", "wait", "lease"))


def test_with_celery_a_beat_does_not_wait_for_runs() -> None:
    celery = {"executor": "celery", "celery_broker_url": "redis://localhost"}

    assert read(**celery).wait == 0
    assert read(**celery, wait="5s").wait == 5


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "celery_broker_url is missing, which heartbeat.executor = celery needs"),
        ("hunter2", r"celery_broker_url is \(not shown\): is not a URL; valid is, for example"),
        ("redis://localhost;hunter2", "is not a URL"),
    ],
)
def test_celery_needs_the_url_of_a_broker(url: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as caught:
        read(executor="celery", celery_broker_url=url)

    assert "hunter2" not in str(caught.value)


def test_an_unknown_key_is_a_problem_and_its_value_is_not_shown() -> None:
    with pytest.raises(SettingsError, match=r"heartbeat\.tokn") as caught:
        read(tokn="hunter2-hunter2-hunter2")

    assert "hunter2-hunter2-hunter2" not in str(caught.value)


def test_the_environment_wins_over_the_file() -> None:
    environment = {"HEARTBEAT_WORKERS": "2", "HEARTBEAT_REQUIRE_TOKEN": "false"}

    settings = Settings.read({"heartbeat.workers": "8"}, environment)

    assert (settings.workers, settings.require_token) == (2, False)


def test_an_unknown_variable_of_the_environment_is_ignored() -> None:
    environment = {"HEARTBEAT_PORT": "tcp://10.0.0.1:80", "WORKERS": "9"}

    assert Settings.read({}, environment) == read()


def test_keys_of_others_are_ignored() -> None:
    assert Settings.read({"pyramid.includes": "x", "heartbeats": "y"}, {}) == read()


def test_a_token_is_not_shown_by_a_problem_or_a_repr() -> None:
    unreadable: Any = {"heartbeat.token": ["hunter2-hunter2-hunter2"]}

    with pytest.raises(SettingsError) as caught:
        Settings.read(unreadable, {})

    assert "hunter2-hunter2-hunter2" not in str(caught.value)
    assert "hunter2" not in repr(Settings.read({"heartbeat.token": "hunter2-hunter2-hunter2"}, {}))


def test_settings_cannot_be_changed() -> None:
    settings = read()

    with pytest.raises(ValueError, match="frozen"):
        settings.workers = 9

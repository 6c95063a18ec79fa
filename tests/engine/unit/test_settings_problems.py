"""The report of invalid settings at start: all problems, with solutions, and never a secret."""

import logging
import traceback
from pathlib import Path

import pytest
from pyramid.config import Configurator

from data_flows.heartbeat.errors import SettingsError
from data_flows.heartbeat.security.token import weakness
from data_flows.heartbeat.settings import Settings, read_settings

GOOD = "NYhkJ2u2dCqZMnyTL8xIFw"
OTHER = "0d2vXGJEU6SWYxkqm3o5bA"
SECRET = "hunter2-geheim-hunter2"  # noqa: S105 - what must not show


def problems_of(**ini: str) -> list[str]:
    """Return the problems of settings, which are given without their prefix."""
    with pytest.raises(SettingsError) as raised:
        Settings.read({f"heartbeat.{name}": value for name, value in ini.items()}, {})
    problems = str(raised.value).splitlines()
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    return problems


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("path", ""),
        ("path", "/"),
        ("path", "heartbeat"),
        ("path", "/heartbeat/"),
        ("path", "//heartbeat"),
        ("path", "/a/../b"),
        ("path", "/."),
        ("path", "/{rest}"),
        ("path", "/*rest"),
        ("path", "/a?b"),
        ("path", "/schl\u00fcssel"),
        ("path", "/a\n"),
        ("require_token", "perhaps"),
        ("require_token", ""),
        ("allowed_ips", ""),
        ("allowed_ips", " , "),
        ("allowed_ips", "10.0.0.1/8"),
        ("allowed_ips", "example.org"),
        ("trusted_proxies", ""),
        ("trusted_proxies", "*"),
        ("workers", "0"),
        ("workers", "four"),
        ("workers", "4.5"),
        ("workers", ""),
        ("wait", "-1"),
        ("wait", "soon"),
        ("wait", "25 s s"),
        ("wait", "2h"),
        ("lease", "0"),
        ("lease", "2s"),
        ("shutdown_grace", "x"),
        ("executor", "threads"),
        ("batch_size", "0"),
        ("redeliver_after", "0"),
        ("catch_up_limit", "-1"),
        ("expected_every", "0"),
        ("keep_days", "0"),
        ("keep_runs", "none"),
        ("metrics_flows", "-1"),
        ("allow_get", "2"),
    ],
)
def test_a_single_problem_names_setting_value_and_a_valid_example(name: str, value: str) -> None:
    (problem,) = problems_of(**{name: value})

    assert problem.strip().startswith(f"heartbeat.{name} is {value!r}: ")
    _, _, example = problem.partition("valid is, for example, ")
    assert example
    Settings.read({f"heartbeat.{name}": example}, {})  # the example is valid indeed


@pytest.mark.parametrize("name", ["token", "operator_token"])
@pytest.mark.parametrize("value", [f"{SECRET} and more", f"{SECRET}\u00fc", f"{SECRET}\0"])
def test_a_secret_that_fits_no_header_is_a_problem_without_its_value(name: str, value: str) -> None:
    (problem,) = problems_of(**{name: value})

    assert problem.strip().startswith(f"heartbeat.{name} is (not shown): ")
    assert "openssl rand" in problem


@pytest.mark.parametrize("name", ["ping_url", "webhook_url"])
@pytest.mark.parametrize("value", [f"ftp://example.org/{SECRET}", SECRET, "file:///etc/passwd"])
def test_an_invalid_url_is_a_problem_without_its_value(name: str, value: str) -> None:
    (problem,) = problems_of(**{name: value})

    assert problem.strip().startswith(f"heartbeat.{name} is (not shown): ")
    assert "valid is, for example, https://" in problem
    assert value not in problem


@pytest.mark.parametrize("name", ["ping_url", "webhook_url"])
def test_an_empty_url_is_none(name: str) -> None:
    assert getattr(Settings.read({f"heartbeat.{name}": " "}, {}), name) is None


def test_a_long_value_is_shortened() -> None:
    (problem,) = problems_of(workers="9" * 5_000)

    assert len(problem) < 600


def test_ten_problems_are_reported_together() -> None:
    problems = problems_of(
        path="/",
        token=f"{SECRET}\0",
        operator_token=f"{SECRET} {SECRET}",
        allowed_ips="",
        trusted_proxies="proxy",
        workers="0",
        wait="soon",
        lease="1s",
        keep_day="3",
        ping_url="nowhere",
        allow_get="maybe",
    )

    reported = "\n".join(problems)
    assert len(problems) == 11
    for name in ("path", "token", "operator_token", "allowed_ips", "trusted_proxies", "workers"):
        assert f"heartbeat.{name} " in reported
    for name in ("wait", "lease", "ping_url", "allow_get"):
        assert f"heartbeat.{name} is" in reported
    assert (
        "heartbeat.keep_day: there is no such setting; did you mean heartbeat.keep_days?"
        in reported
    )


def test_an_application_with_problems_does_not_start_and_reports_those_of_its_database_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    caplog.set_level(logging.DEBUG)
    settings = {
        "sqlalchemy.url": f"no url {SECRET}",
        "heartbeat.workers": "none",
        "heartbeat.token": f"{SECRET}\0",
    }

    with pytest.raises(SettingsError) as raised, Configurator(settings=settings) as config:
        config.include("data_flows.heartbeat")

    for word in ("heartbeat.workers is 'none'", "heartbeat.token is (not shown)", "DATABASE_URL"):
        assert word in str(raised.value)
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    assert SECRET not in caplog.text


def test_a_problem_of_the_database_alone_is_reported_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)

    with pytest.raises(SettingsError, match=r"^no database: set sqlalchemy\.url") as raised:
        read_settings({})

    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("worker", "workers"),
        ("tokenfile", "token_file"),
        ("alowed_ips", "allowed_ips"),
        ("keep-days", "keep_days"),
        ("require_tokens", "require_token"),
    ],
)
def test_an_unknown_key_is_reported_with_the_nearest_known_one(key: str, near: str) -> None:
    (problem,) = problems_of(**{key: SECRET})

    assert problem.strip() == (
        f"heartbeat.{key}: there is no such setting; did you mean heartbeat.{near}?"
    )


def test_an_unknown_key_that_is_near_to_none_is_reported_alone() -> None:
    (problem,) = problems_of(qqq=SECRET)

    assert problem.strip() == "heartbeat.qqq: there is no such setting"


def test_the_environment_wins_over_the_file_and_unknown_variables_are_ignored() -> None:
    environment = {
        "HEARTBEAT_WORKERS": "7",
        "HEARTBEAT_ALLOW_GET": "true",
        "HEARTBEAT_SERVICE_HOST": "10.0.0.1",  # as Kubernetes makes them
        "HEARTBEAT_PORT_6543_TCP_ADDR": "10.0.0.1",
        "HEARTBEAT_": "x",
        "heartbeat_wait": "1",
        "HEARTBEAT.WAIT": "1",
    }

    settings = Settings.read({"heartbeat.workers": "no number", "heartbeat.wait": "9"}, environment)

    assert (settings.workers, settings.wait, settings.allow_get) == (7, 9, True)


def test_a_problem_of_the_environment_names_the_setting() -> None:
    with pytest.raises(SettingsError, match=r"heartbeat\.workers is 'x'"):
        Settings.read({"heartbeat.workers": "4"}, {"HEARTBEAT_WORKERS": "x"})


def test_database_url_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://joe@db/app")

    _, url = read_settings({"sqlalchemy.url": "sqlite:///app.sqlite"})

    assert str(url) == "postgresql+psycopg://joe@db/app"


def test_space_around_a_token_is_ignored_and_space_alone_is_none() -> None:
    settings = Settings.read({"heartbeat.operator_token": " \n"}, {"HEARTBEAT_TOKEN": f" {GOOD}\n"})

    assert settings.token is not None
    assert settings.token.get_secret_value() == GOOD
    assert settings.operator_token is None


# ---------------------------------------------------------------------------------------------
# Secrets that are easy to guess


@pytest.mark.parametrize(
    "secret",
    [
        "secret",
        "changeme",
        "CHANGE-ME",
        "your-token-here-1234",
        "<your_token>",
        "***token***",
        "undefined",
        "x" * 40,
        "abab" * 10,
        "short",
        "fifteen-letters",
        "your-secret-2026",
    ],
)
@pytest.mark.parametrize("role", ["", "operator_"])
def test_a_secret_that_can_be_guessed_is_refused_outside_of_development(
    tmp_path: Path, role: str, secret: str
) -> None:
    file = tmp_path / "a.token"
    file.write_text(f"{GOOD}\n{secret} cron\n")

    for given in ({f"{role}token": secret}, {f"{role}token_file": str(file)}):
        (problem,) = problems_of(**given)
        (name,) = given
        assert f"heartbeat.{name} (not shown) is" in problem
        assert "openssl rand -hex 32" in problem
        assert f"'{secret}'" not in problem
        development = {"pyramid.reload_templates": "true", f"heartbeat.{name}": given[name]}
        Settings.read(development, {})


@pytest.mark.parametrize("secret", [GOOD, OTHER, "0123456789abcdef", "d41d8cd98f00b204e9800998"])
def test_a_secret_that_cannot_be_guessed_is_taken(secret: str) -> None:
    assert weakness(secret) is None


def test_one_secret_for_both_roles_is_a_problem_wherever_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "a.token"
    file.write_text(f"{OTHER}\n{GOOD} cron\n")
    sources = ({"token": GOOD}, {"token_file": str(file)})

    for beat in sources:
        for operator in sources:
            given = {**beat, **{f"operator_{name}": value for name, value in operator.items()}}
            problems = problems_of(**given)
            assert all("hold the same secret" in problem for problem in problems)
            assert not any(GOOD in problem or OTHER in problem for problem in problems)
            for name in given:
                assert f"heartbeat.{name} " in problems[0]
            with pytest.raises(SettingsError, match="same secret"):
                Settings.read(
                    {"pyramid.reload_templates": "true"}
                    | {f"heartbeat.{name}": value for name, value in given.items()},
                    {},
                )


def test_no_secret_is_in_the_text_of_settings() -> None:
    settings = Settings.read(
        {
            "heartbeat.token": GOOD,
            "heartbeat.operator_token": OTHER,
            "heartbeat.celery_broker_url": f"redis://joe:{SECRET}@localhost",
            "heartbeat.ping_url": f"https://joe:{SECRET}@example.org/uuid",
            "heartbeat.webhook_url": f"https://example.org/{SECRET}",
        },
        {},
    )

    for secret in (GOOD, OTHER, SECRET):
        assert secret not in f"{settings!r} {settings}"


def test_settings_cannot_be_changed() -> None:
    settings = Settings.read({}, {})

    with pytest.raises(ValueError, match="frozen"):
        settings.workers = 5

"""The engine's settings: read once, from the .ini file and the environment, checked together."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AnyHttpUrl,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic import Secret as SecretValue
from pyramid.settings import asbool
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from .db import database_url
from .durations import parse_every
from .errors import SettingsError
from .security.addresses import Network, parse_networks
from .security.token import read_tokens, weakness
from .validation import problems_in

PREFIX = "heartbeat."
ENVIRONMENT_PREFIX = "HEARTBEAT_"
# The scheduler counts as lost after this many times heartbeat.expected_every without a beat.
BEATS_MISSED = 2


def _seconds(value: object) -> object:
    """Read a duration such as 30s, 5m, 2h, 1d or plain seconds; zero is valid."""
    return 0 if str(value).strip() in {"0", "0s"} else parse_every(value)


def _prefix(path: object) -> str:
    text = str(path)
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", text) or {".", ".."} & {*text.split("/")}:
        raise ValueError("must start with a slash, not end with one, and not be the whole site")
    return text


def _empty_is_none(given: object) -> object:
    """Treat an empty variable like one that is not set.

    Spaces around a token, such as the new line at the end of a file, are not part of it.
    """
    return (given.strip() or None) if isinstance(given, str) else given


def _secret(given: object) -> object:
    token = _empty_is_none(given)
    if isinstance(token, str) and not re.fullmatch(r"[!-~]+", token):
        raise ValueError("must be printable ASCII without spaces, to fit a header")
    return token


def _broker_url(given: object) -> object:
    """Check the URL of a broker, or several of them between semicolons."""
    urls = _empty_is_none(given)
    try:
        for url in urls.split(";") if isinstance(urls, str) else ():
            make_url(url)
    except ArgumentError:
        raise ValueError("is not a URL") from None
    return urls


Prefix = Annotated[str, BeforeValidator(_prefix)]
Secret = Annotated[SecretStr | None, BeforeValidator(_secret)]
SecretUrl = Annotated[SecretValue[AnyHttpUrl] | None, BeforeValidator(_empty_is_none)]
BrokerURL = Annotated[SecretStr | None, BeforeValidator(_broker_url)]
SecretFile = Annotated[Path | None, BeforeValidator(_empty_is_none)]
Duration = Annotated[int, BeforeValidator(_seconds), Field(le=366 * 86_400)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(parse_networks)]


class Settings(BaseModel):
    """All settings; the key in the .ini file is `heartbeat.` and the field's name."""

    model_config = {"frozen": True, "extra": "forbid", "hide_input_in_errors": True}

    path: Prefix = Field("/heartbeat", examples=["/heartbeat"])
    token: Secret = Field(None, examples=["what `openssl rand -hex 32` prints"])
    token_file: SecretFile = Field(None, examples=["%(here)s/var/beat.token"])
    operator_token: Secret = Field(None, examples=["what `openssl rand -hex 32` prints"])
    operator_token_file: SecretFile = Field(None, examples=["%(here)s/var/operator.token"])
    require_token: bool = Field(default=True, examples=["true"])
    allowed_ips: Networks | None = Field(None, examples=["10.0.0.0/8, 2001:db8::/32"])
    trusted_proxies: Networks | None = Field(None, examples=["127.0.0.1, ::1"])
    workers: int = Field(4, ge=1, le=1_000, examples=["4"])
    executor: Literal["local", "celery"] = Field("local", examples=["local"])
    wait: Duration = Field(25, le=3_600, examples=["25s"])
    lease: Duration = Field(300, ge=3, examples=["5m"])
    shutdown_grace: Duration = Field(20, examples=["20s"])
    celery_broker_url: BrokerURL = Field(None, examples=["redis://localhost:6379/0"])
    batch_size: int = Field(100, ge=1, le=10_000, examples=["100"])
    redeliver_after: Duration = Field(300, ge=1, examples=["5m"])
    catch_up_limit: int = Field(10, ge=1, le=10_000, examples=["10"])
    expected_every: Duration = Field(300, ge=1, examples=["5m"])
    keep_days: int = Field(30, ge=1, le=36_500, examples=["30"])
    keep_runs: int = Field(100, ge=1, examples=["100"])
    ping_url: SecretUrl = Field(None, examples=["https://hc-ping.com/uuid"])
    webhook_url: SecretUrl = Field(None, examples=["https://hooks.slack.com/services/T/B/x"])
    metrics_flows: int = Field(200, ge=0, le=10_000, examples=["200"])
    allow_get: bool = Field(default=False, examples=["false"])

    @classmethod
    def read(cls, ini: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Self:
        """Return the settings of an application: `ini` values, the environment winning over them.

        Raises SettingsError with all problems at once, each with the setting, its value (never a
        secret) and a valid example.
        """
        given = {key.removeprefix(PREFIX): ini[key] for key in ini if key.startswith(PREFIX)}
        variables = {name: ENVIRONMENT_PREFIX + name.upper() for name in cls.model_fields}
        given |= {name: environment[key] for name, key in variables.items() if key in environment}
        if given.get("executor") == "celery":
            given.setdefault("wait", 0)
        problems = [*_invalid_secrets(given, ini), *_missing_broker(given)]
        try:
            settings = cls.model_validate(given)
        except ValidationError as error:
            problems += [each.line for each in problems_in(error, given, cls, "setting", PREFIX)]
        if problems:
            raise SettingsError("\n".join(problems))
        return settings


def read_settings(ini: Mapping[str, Any]) -> tuple[Settings, URL]:
    """Return the settings and the database's URL. Raises SettingsError."""
    try:
        settings = Settings.read(ini)
    except SettingsError as error:
        try:
            database_url(ini)
        except SettingsError as another:
            raise SettingsError(f"{error}\n{another}") from None
        raise
    return settings, database_url(ini)


def _secrets(given: Mapping[str, Any], role: str) -> Iterator[tuple[str, str]]:
    """Yield the secrets of a role, each with the name of its setting."""
    if secret := str(given.get(f"{role}token", "")).strip():
        yield f"{role}token", secret
    if file := str(given.get(f"{role}token_file", "")).strip():
        for token in read_tokens(Path(file)):
            yield f"{role}token_file", token.secret


def _missing_broker(given: Mapping[str, Any]) -> Iterator[str]:
    if given.get("executor") == "celery" and not str(given.get("celery_broker_url", "")).strip():
        fix = "give the broker's URL, such as redis://localhost:6379/0 or amqp://localhost"
        yield f"{PREFIX}celery_broker_url is missing, which {PREFIX}executor = celery needs: {fix}"


def _invalid_secrets(given: Mapping[str, Any], ini: Mapping[str, Any]) -> Iterator[str]:
    beats, operators = [*_secrets(given, "")], [*_secrets(given, "operator_")]
    for name, secret in beats:
        for other, operator_secret in operators:
            if secret == operator_secret:
                problem = f"{PREFIX}{name} and {PREFIX}{other} hold the same secret"
                yield f"{problem}: the scheduler may only beat; create another token for operators"
    is_development = asbool(ini.get("pyramid.reload_templates"))
    for name, secret in beats + operators:
        if not is_development and (reason := weakness(secret)):
            yield f"{PREFIX}{name} (not shown) {reason}; make one with `openssl rand -hex 32`"

"""The form of a flow's configuration, made from the JSON schema of its pydantic model."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from pydantic import BaseModel

from ...core import Heartbeat
from ...errors import InputError

# The name of the one field of a configuration without a model, and the prefix of all others.
WHOLE = "configuration"
NUMBERS = {"integer": int, "number": float}
# Where a field may be left empty: a default, or null.
NOTHING = ("null", "")


class Field(NamedTuple):
    """A field of the form. kind: text, password, number, json, or choice with `choices`."""

    name: str
    label: str
    hint: str
    kind: str
    text: str
    choices: list[str]
    errors: list[str]
    required: bool = True


def fields_of(
    heartbeat: Heartbeat,
    handler: str | None,
    stored: Mapping[str, Any],
    typed: Mapping[str, str] | None = None,
    errors: Mapping[str, list[str]] | None = None,
) -> list[Field]:
    """Return the fields of a flow's form, with what was `typed` and the errors by field."""
    typed, errors = typed or {}, errors or {}
    schema = _schema(heartbeat, handler)
    if schema is None:
        text = typed.get(WHOLE, _json(stored))
        found = [each for reasons in errors.values() for each in reasons]
        whole = Field(WHOLE, "Configuration", "A JSON object.", "json", text, [], found)
        return [whole]
    fields = []
    for name, given in schema.get("properties", {}).items():
        key = f"{WHOLE}.{name}"
        kinds = _kinds(schema, given)
        value = stored[name] if name in stored else given.get("default")
        kind, choices = _kind(kinds, value)
        text = "" if kind == "password" or value is None else _text(value, kind)
        reasons = [
            each for at, found in errors.items() if f"{at}.".startswith(f"{key}.") for each in found
        ]
        fields.append(
            Field(
                key,
                given.get("title", name),
                given.get("description", ""),
                kind,
                typed.get(key, text),
                choices,
                reasons,
                name in schema.get("required", ()) and {"type": "null"} not in kinds,
            )
        )
    return fields


def read_form(
    heartbeat: Heartbeat, handler: str | None, stored: Mapping[str, Any], typed: Mapping[str, str]
) -> dict[str, Any]:
    """Return the configuration that a form asks for. Raises InputError for invalid JSON.

    Other keys of the stored configuration stay. An empty field is null or the default.
    """
    schema = _schema(heartbeat, handler)
    if schema is None:
        found = _read_json(typed.get(WHOLE, ""), WHOLE)
        if not isinstance(found, dict):
            raise InputError({WHOLE: ["is not a JSON object, such as {}"]})
        return found
    wanted = dict(stored)
    problems: dict[str, list[str]] = {}
    for name, given in schema.get("properties", {}).items():
        key = f"{WHOLE}.{name}"
        kinds = _kinds(schema, given)
        kind, _choices = _kind(kinds, stored[name] if name in stored else given.get("default"))
        text = typed.get(key)
        if text is None or (kind == "password" and not text):
            continue
        try:
            if text or (kind == "text" and {"type": "null"} not in kinds):
                wanted[name] = _value(text, kind, key, kinds)
            elif {"type": "null"} in kinds:
                wanted[name] = None
            else:
                wanted.pop(name, None)
        except InputError as error:
            problems |= error.errors
    if problems:
        raise InputError(problems)
    return wanted


def _schema(heartbeat: Heartbeat, handler: str | None) -> dict[str, Any] | None:
    """Return the schema of a handler's configuration; None if none lists its fields."""
    definition = heartbeat.flows.get(handler or "")
    model = definition and definition.configuration
    if isinstance(model, type) and issubclass(model, BaseModel):
        with suppress(Exception):  # a model of the user's may have types without a JSON schema
            schema = model.model_json_schema(by_alias=True)
            return schema if "properties" in schema else None
    return None


def _kinds(schema: Mapping[str, Any], given: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the alternatives of a property: those of `anyOf`, references resolved."""
    place = given.get("$ref", "").rpartition("/")[2]
    given = schema.get("$defs", {}).get(place, given)
    alternatives = given.get("anyOf", [given])
    if alternatives == [given]:
        return [given]
    return [kind for each in alternatives for kind in _kinds(schema, each)]


def _kind(kinds: list[Mapping[str, Any]], value: Any) -> tuple[str, list[str]]:
    """Return the kind of a field with a value, and its choices."""
    kinds = [kind for kind in kinds if kind != {"type": "null"}]
    # A page shows no control characters, but JSON has escapes for them.
    is_visible = value.isprintable() if isinstance(value, str) else True
    if len(kinds) != 1 or not is_visible:
        return "json", []
    kind = kinds[0]
    if "enum" in kind or "const" in kind:
        return "choice", [_text(each, "text") for each in kind.get("enum", [kind.get("const")])]
    if kind.get("type") == "boolean":
        return "choice", ["true", "false"]
    if kind.get("type") in NUMBERS:
        return "number", []
    if kind.get("type") == "string":
        return ("password" if kind.get("writeOnly") else "text"), []
    return "json", []


def _value(text: str, kind: str, key: str, kinds: list[Mapping[str, Any]]) -> Any:
    """Return the value of a text. One that does not fit is left to the model's own check."""
    if kind == "json":
        return _read_json(text, key)
    if kind == "choice":
        known = [each for kind in kinds for each in kind.get("enum", [kind.get("const")])]
        known += [True, False]
        return next((each for each in known if _text(each, "text") == text), text)
    for each in kinds:
        with suppress(ValueError, KeyError):
            return NUMBERS[each["type"]](text)
    return text


def _read_json(text: str, key: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "it is nested too deeply")
        raise InputError({key: [f"is not valid JSON: {reason}"]}) from error


def _text(value: Any, kind: str) -> str:
    is_plain = isinstance(value, str) and kind != "json"
    return value if is_plain else _json(value)


def _json(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    is_visible = text.replace("\n", "").isprintable()
    return text if is_visible else json.dumps(value, indent=2, default=str)

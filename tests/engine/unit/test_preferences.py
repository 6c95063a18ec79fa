"""What the header `Prefer` asks for."""

import time

import pytest

from data_flows.heartbeat.views.preferences import LONGEST_WAIT, Preferences, parse_preferences


@pytest.mark.parametrize(
    ("headers", "preferences"),
    [
        ([], Preferences()),
        ([""], Preferences()),
        (["respond-async"], Preferences(respond_async=True)),
        (["Respond-Async"], Preferences(respond_async=True)),
        (['respond-async=""'], Preferences(respond_async=True)),
        (["respond-async; foo=bar"], Preferences(respond_async=True)),
        (["respond-async=no"], Preferences()),
        (["wait=10"], Preferences(wait=10)),
        (["wait = 10"], Preferences(wait=10)),
        (['wait="10"'], Preferences(wait=10)),
        (["wait=0"], Preferences(wait=0)),
        (["wait=300"], Preferences(wait=300)),
        (["wait=301"], Preferences(wait=LONGEST_WAIT)),
        (["wait=" + "9" * 10_000], Preferences(wait=LONGEST_WAIT)),
        (["return=representation"], Preferences(representation=True)),
        (["Return=Representation"], Preferences(representation=True)),
        (["return=minimal"], Preferences()),
        (
            ["respond-async, wait=5", "return=representation"],
            Preferences(respond_async=True, wait=5, representation=True),
        ),
        # of one preference the first counts
        (["wait=5, wait=10"], Preferences(wait=5)),
        (["wait=x", "wait=10"], Preferences()),
        (["return=minimal, return=representation"], Preferences()),
        # within quotes nothing is a preference
        (['foo="a, wait=3, b", wait=7'], Preferences(wait=7)),
        (['foo="a; respond-async"'], Preferences()),
        (['foo="a\\", wait=3", wait=7'], Preferences(wait=7)),
        (['foo="never closed, wait=3'], Preferences()),
    ],
)
def test_what_a_beat_knows_is_read(headers: list[str], preferences: Preferences) -> None:
    assert parse_preferences(headers) == preferences


@pytest.mark.parametrize(
    "value", ["-1", "1.5", "1e3", "0x10", "ten", "", "\u0663", "\u00b2", "+5", "5s", "_5"]
)
def test_an_invalid_wait_is_ignored(value: str) -> None:
    assert parse_preferences([f"wait={value}"]).wait is None


@pytest.mark.parametrize("piece", [",", ";", '"', "\\", "=", 'a="', '"\\', " "])
def test_garbage_is_passed_over_in_no_time(piece: str) -> None:
    began = time.process_time()

    assert parse_preferences([piece * 100_000]) == Preferences()

    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("preferences", "applied"),
    [
        (Preferences(), ""),
        (Preferences(wait=0), "wait=0"),
        (
            Preferences(respond_async=True, wait=5, representation=True),
            "respond-async, wait=5, return=representation",
        ),
    ],
)
def test_applied_preferences_are_reported(preferences: Preferences, applied: str) -> None:
    assert preferences.applied() == applied

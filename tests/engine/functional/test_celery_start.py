"""The start of an application with the executor celery, and the option `queue`, without Celery."""

import sys
from typing import Any

import pytest

from data_flows import heartbeat
from data_flows.heartbeat import Run
from data_flows.heartbeat.errors import SettingsError

from ..conftest import MakeApp

CELERY = {
    "heartbeat.executor": "celery",
    "heartbeat.celery_broker_url": "redis://:hunter2@localhost:6379/0",
}


def work(_run: Run) -> None:
    """Do nothing."""


def test_a_queue_means_nothing_where_flows_run_here(make_app: MakeApp, post: Any) -> None:
    app = make_app((work, {"queue": "heavy"}))

    assert post(app).json["flows_succeeded"] == 1


def test_a_missing_package_is_reported(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"{heartbeat.__name__}.optional.celery.sending", raising=False)
    monkeypatch.setitem(sys.modules, "celery", None)

    with pytest.raises(SettingsError, match=r"and run `.*celery\[redis\]"):
        make_app(work, **CELERY)


def test_without_its_module_the_executor_is_refused(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [name for name in heartbeat.OPTIONAL if name != "celery"]
    monkeypatch.setattr(heartbeat, "OPTIONAL", left)

    with pytest.raises(SettingsError, match="needs the optional module optional/celery") as caught:
        make_app(work, **CELERY)

    assert "hunter2" not in str(caught.value)

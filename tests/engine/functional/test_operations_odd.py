"""Whatever an application's own policy raises: the call is answered, and the error is logged."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_flows.heartbeat.tracebacks import is_a

from ..conftest import MakeApp
from ..odd_errors import NAMES, ODD


@pytest.mark.parametrize("make", ODD, ids=NAMES)
def test_a_request_with_any_error_is_answered_500_and_logged(
    make_app: MakeApp,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Path], BaseException],
    tmp_path: Path,
) -> None:
    error = make(tmp_path)

    class Policy:
        """The policy of an application that fails in an odd way."""

        def permits(self, *_arguments: object) -> None:
            """Raise it."""
            raise error if is_a(error, Exception) else ValueError() from error

    app = make_app(configure=lambda config: config.set_security_policy(Policy()))

    response = app.get("/heartbeat/flows", status=500)

    assert response.content_type == "application/problem+json"
    assert response.json["detail"].startswith("an unexpected ")
    assert len(response.json["detail"]) < 300
    assert "Traceback (most recent call last):" in caplog.text

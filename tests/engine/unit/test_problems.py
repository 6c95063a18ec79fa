"""The shape of errors: problem+json, as RFC 9457 has it."""

import json
from http import HTTPStatus

from data_flows.heartbeat.views.problems import json_reply, problem


def test_a_problem_has_the_standard_members_and_the_short_reason() -> None:
    response = problem(HTTPStatus.CONFLICT, "a run is under way", {"Retry-After": "3"})

    assert response.status_int == 409
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Retry-After"] == "3"
    assert response.headers["Cache-Control"] == "no-store"
    assert json.loads(response.body) == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "error": "Conflict",
        "detail": "a run is under way",
    }


def test_the_problems_of_an_input_are_in_a_member_of_their_own() -> None:
    errors = {"every": ["is not an interval"]}

    assert json.loads(problem(HTTPStatus.UNPROCESSABLE_ENTITY, "", errors=errors).body) == {
        "type": "about:blank",
        "title": "Unprocessable Entity",
        "status": 422,
        "error": "Unprocessable Entity",
        "detail": "",
        "errors": errors,
    }


def test_a_reply_is_json_that_no_cache_stores() -> None:
    response = json_reply(HTTPStatus.ACCEPTED, {"name": "Käuzchen"})

    assert response.status_int == 202
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert json.loads(response.body) == {"name": "Käuzchen"}

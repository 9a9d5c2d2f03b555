from __future__ import annotations

import ast

import pytest

from serve_apps.gateway.outcome import ErrorKind, Unanswered, error_kind, is_callers, unanswered
from tests.support.markdown import CHECKOUT

T, B, U, I = ErrorKind.TIMEOUT, ErrorKind.BROKEN_STREAM, ErrorKind.UNAVAILABLE, ErrorKind.INTERNAL  # noqa: E741


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (200, "", None),
        (200, "stream_broken", B),
        (200, "no_replica", B),
        (200, "upstream_failed", B),
        (200, "upstream_timeout", T),
        (200, "task_output", I),
        (499, "internal_error", I),
        (499, "stream_broken", B),
        (499, "", None),
        (400, "", None),
        (429, "overloaded", None),
        (404, "upstream_error", None),
        (500, "", I),
        (500, "upstream_error", I),
        (500, "internal_error", I),
        (502, "task_output", I),
        (502, "upstream_error", I),
        (503, "", U),
        (503, "no_replica", U),
        (503, "upstream_failed", U),
        (504, "upstream_timeout", T),
        (504, "", T),
    ],
)
def test_the_kind_of_an_error(status, code, kind):
    assert error_kind(status, code) is kind


def test_what_is_the_callers_tells_nothing_of_the_version():
    told = [(400, ""), (429, "overloaded"), (404, "upstream_error"), (499, "")]
    assert all(is_callers(*one) for one in told)
    assert not any(
        is_callers(*one) for one in [(200, ""), (500, ""), (499, "stream_broken"), (503, "no_replica")]
    )


@pytest.mark.parametrize(
    ("status", "code", "begun", "found"),
    [
        (499, "", False, Unanswered.LEFT),
        (499, "", True, None),
        (499, "stream_broken", False, None),
        (429, "overloaded", False, Unanswered.OVERLOADED),
        (429, "rate_limit_exceeded", False, None),
        (404, "upstream_error", False, None),
    ],
)
def test_why_no_answer_came(status, code, begun, found):
    assert unanswered(status, code, begun=begun) is found


def test_a_request_is_a_callers_or_an_error_or_good():
    for status in range(200, 600):
        for code in ("", "stream_broken", "upstream_error"):
            assert not (is_callers(status, code) and error_kind(status, code))
            assert status < 500 or error_kind(status, code)


def test_every_5xx_of_the_gateway_itself_is_an_error():
    source = ast.parse((CHECKOUT / "serve_apps" / "gateway" / "openai_errors.py").read_text())
    calls = [
        one for one in ast.walk(source) if isinstance(one, ast.Call) and ast.unparse(one.func) == "Refusal"
    ]
    made = {(ast.unparse(call.args[0]), ast.literal_eval(call.args[3])) for call in calls}
    own = {(int(status), code) for status, code in made if status.isdecimal() and int(status) >= 500}
    assert (504, "upstream_timeout") in own
    assert all(error_kind(status, code) for status, code in own)

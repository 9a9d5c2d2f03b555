from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.gateway.wanted_form import wants_json


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({"response_format": {"type": "json_object"}}, True),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, True),
        ({"response_format": {"type": "text"}}, False),
        ({"response_format": None}, False),
        ({"structured_outputs": {"json": {"type": "object"}}}, True),
        ({"structured_outputs": {"json_object": True}}, True),
        ({"structured_outputs": {"choice": ["a", "b"]}}, False),
        ({"text": {"format": {"type": "json_schema"}}}, True),
        ({"text": {"format": {"type": "text"}}}, False),
        ({"messages": [{"content": '"response_format": {"type": "json_object"}'}]}, False),
        ({"response_format": 5}, False),
        ({}, False),
    ],
)
def test_whether_a_request_asks_for_json(asked, wanted):
    assert wants_json(json.dumps({"model": "m", **asked}).encode()) is wanted


@given(st.binary())
def test_any_body_is_read(body):
    assert wants_json(b'{"response_format": ' + body) in (True, False)

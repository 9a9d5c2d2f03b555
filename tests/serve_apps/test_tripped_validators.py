from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel, model_validator

from serve_apps import tripped_validators


class Body(BaseModel):
    wanted: Any = None

    @model_validator(mode="before")
    @classmethod
    def _trips(cls, data):
        (data.get("wanted") or {}).get("json")
        return data


@pytest.fixture
def client():
    app = FastAPI()
    app.state.args = SimpleNamespace(log_error_stack=False)

    @app.post("/ask")
    def ask(body: Body) -> str:
        return {"json": "well"}[body.wanted["json"]]

    tripped_validators.refuse_bodies(app)
    return TestClient(app, raise_server_exceptions=False)


def test_a_body_that_a_validator_trips_over_is_the_callers_error(client):
    answer = client.post("/ask", json={"wanted": [1]})
    assert answer.status_code == 400
    assert "'list' object has no attribute 'get'" in answer.json()["error"]["message"]


def test_an_error_after_the_body_was_read_stays_one_of_the_server(client):
    assert client.post("/ask", json={"wanted": {"json": "json"}}).json() == "well"
    assert client.post("/ask", json={"wanted": {"json": "xml"}}).status_code == 500

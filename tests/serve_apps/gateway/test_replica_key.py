from __future__ import annotations

import pytest
from aiohttp import web

from cluster.errors import EnvironmentSetupError
from serve_apps.gateway.config import Auth
from serve_apps.gateway.replica_key import VARIABLE, replica_key


@pytest.mark.parametrize("auth", list(Auth))
def test_what_is_set_is_sent(auth):
    assert replica_key(auth, {VARIABLE: "inner"}) == "inner"


@pytest.mark.parametrize("environ", [{}, {VARIABLE: ""}])
def test_required_keys_need_replicas_that_answer_the_gateway_alone(environ):
    assert replica_key(Auth.NONE, environ) is None
    assert replica_key(Auth.OPTIONAL, environ) is None
    with pytest.raises(EnvironmentSetupError) as caught:
        replica_key(Auth.REQUIRED, environ)
    assert caught.value.code == "environment.replica_key"
    assert VARIABLE in caught.value.hint


def test_replicas_get_the_gateways_key_and_not_the_callers(launch):
    stack = launch(replica_key="inner")

    async def guarded(request, body):
        if request.headers.getall("Authorization") != ["Bearer inner"]:
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await engine._answer(request, body)

    engine = stack.engine("v1", guarded)
    stack.policy()
    assert stack.client().chat.completions.create(model="m", messages=[]).model == "v1"


def test_vllm_0_29_takes_the_variable_too(monkeypatch):
    envs = pytest.importorskip("vllm.envs")
    monkeypatch.setenv(VARIABLE, "inner")
    assert envs.VLLM_API_KEY == "inner"

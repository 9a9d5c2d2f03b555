from __future__ import annotations

import asyncio
import json

import pytest

from serve_apps.gateway.routes import PROXIED
from serve_apps.replica_door import GatewayOnly

ROOT = "/_versions/m/v1"
OTHERS = [
    "/invocations",
    "/metrics",
    "/pooling",
    "/score",
    "/v1/models",
    "/v1/load_lora_adapter",
    "",
    "/",
    "/v1x",
]
KEY = [(b"authorization", b"Bearer inner")]


def ask(key, path, headers=(), kind="http"):
    """Status and body; status 0 where the application was reached."""
    reached, sent = [], []

    async def application(scope, _receive, _send):
        reached.append(scope)

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "path": ROOT + path, "root_path": ROOT, "headers": list(headers)}
    asyncio.run(GatewayOnly(application, key)(scope, None, send))
    if reached:
        assert not sent
        return 0, None
    if kind == "websocket":
        return sent[0]["code"], None
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.mark.parametrize("path", PROXIED)
def test_the_gateway_gets_in(path):
    assert ask("inner", path, KEY) == (0, None)
    assert ask(None, path) == (0, None)


@pytest.mark.parametrize("path", [*PROXIED, *OTHERS])
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Bearer other")],
        [(b"authorization", b"Bearer inner2")],
        [(b"authorization", b"inner")],
        [(b"authorization", b"Bearer \xff")],
        [*KEY, (b"authorization", b"Bearer other")],
    ],
)
def test_nobody_else_does(path, headers):
    status, body = ask("inner", path, headers)
    assert status == 401
    assert body["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", OTHERS)
@pytest.mark.parametrize(("key", "headers"), [("inner", KEY), (None, [])])
def test_nothing_else_is_reached(path, key, headers):
    status, body = ask(key, path, headers)
    assert status == 404
    assert body["error"]["message"]


def test_no_socket_is_opened_and_the_lifespan_passes():
    assert ask(None, "/v1/realtime", kind="websocket") == (1008, None)
    assert ask("inner", "", kind="lifespan") == (0, None)

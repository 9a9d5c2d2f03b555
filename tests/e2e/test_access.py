"""Keys and the access log on a real endpoint: no way around the gateway, no request without a row."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest

from tests.e2e.processes import gateways
from tests.support.endpoint import MODEL, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def guarded(shared_endpoint):
    shared_endpoint.deploy(["v1", "v2"], gateway={"auth": "required", "access_log": {"flush_s": 0.1}})
    wait_for(lambda: status(f"{shared_endpoint.url}/v1/models") == 401, "the gateway asks for keys")
    yield shared_endpoint
    shared_endpoint.deploy(["v1", "v2"])
    wait_for(lambda: status(f"{shared_endpoint.url}/v1/models") == 200, "the gateway asks for none")


def status(url, key=None, body=None):
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def complete(endpoint, key, request_id="some"):
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key=key, max_retries=0) as client:
        return client.completions.create(
            model=MODEL, prompt="Once", max_tokens=4, extra_headers={"x-request-id": request_id}
        )


def test_a_key_opens_the_endpoint_until_it_is_revoked_and_its_requests_are_logged(guarded):
    with pytest.raises(openai.AuthenticationError):
        complete(guarded, "sk-linnet-none")
    made = guarded.linnet("serve", "keys", "create", "ada", "--model", MODEL, "--yes")
    key = made["detail"]["key"]
    wait_for(lambda: status(f"{guarded.url}/v1/models", key) == 200, "the new key is known", 10)
    assert complete(guarded, key, "logged-1").usage.completion_tokens == 4

    rows = wait_for(
        lambda: guarded.linnet("serve", "logs", MODEL, "--request-id", "logged-1")["data"], "the row", 15
    )
    [row] = rows
    assert (row["status"], row["completion_tokens"], row["route"]) == (200, 4, "/v1/completions")
    assert row["key_hash"]
    assert key not in json.dumps(row)

    guarded.linnet("serve", "keys", "revoke", "ada", "--yes")
    wait_for(lambda: status(f"{guarded.url}/v1/models", key) == 401, "the revoked key is refused", 10)


@pytest.mark.parametrize("path", ["/v1/completions", "/invocations", "/tokenize", "/metrics"])
@pytest.mark.parametrize("key", [None, "sk-linnet-none"])
def test_nobody_goes_around_the_gateway(guarded, path, key):
    around = f"{guarded.url}/_versions/{MODEL}/v1{path}"
    assert status(around, key, {"model": MODEL, "prompt": "Once", "max_tokens": 1}) == 401


def test_a_gateway_is_light(guarded):
    [gateway] = gateways()
    mapped = {Path(found.path).parts for found in gateway.memory_maps()}
    assert any("ray" in parts for parts in mapped)
    assert [parts for parts in mapped if {"pandas", "pyarrow"} & set(parts)] == []
    assert gateway.memory_info().rss < 300e6

from __future__ import annotations

import json
from datetime import timedelta

import httpx
import openai
import pytest

from cluster.state.tables import utc_now
from serve_apps.gateway.access import Access
from serve_apps.gateway.config import GatewayConfig
from tests.serve_apps.gateway.servers import eventually
from tests.serve_apps.gateway.test_app import assert_envelope, speak

HELLO = [{"role": "user", "content": "Hello?"}]


@pytest.fixture
def guarded(launch):
    """Two models, `m` and `secret-model`; every caller needs a key."""
    stack = launch(model=None, models=("m", "secret-model"), auth="required")
    stack.engine("v1")
    stack.policy()
    return stack


def chat(stack, secret, model="m", **options):
    return stack.client(api_key=secret).chat.completions.create(model=model, messages=HELLO, **options)


def get(stack, path, secret=None):
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    return httpx.get(f"{stack.url}{path}", headers=headers)


def test_with_a_key_everything_is_as_without(guarded):
    answer = chat(guarded, guarded.key("ada"))
    assert answer.choices[0].message.content == "Hello from v1"
    assert "authorization" not in guarded.engines[0].requests[0][0]


def test_without_a_key_nothing_is_answered_but_health(guarded):
    eventually(guarded.keys.ready, "the keys are read")
    answer = httpx.post(f"{guarded.url}/v1/chat/completions", json={"model": "m"})
    assert_envelope(answer, 401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/models", "/metrics"):
        assert_envelope(get(guarded, path), 401, "invalid_api_key")
    assert get(guarded, "/healthz").status_code == 200
    assert get(guarded, "/readyz").status_code == 503
    assert not guarded.engines[0].requests


def test_unknown_revoked_and_expired_keys_are_one_refusal(guarded):
    revoked = guarded.key("ada")
    guarded.revoke("ada")
    expired = guarded.key("bob", expires_at=utc_now() + timedelta(seconds=0.5))
    eventually(lambda: get(guarded, "/v1/models", revoked).status_code == 401, "the revoked key is refused")
    eventually(lambda: get(guarded, "/v1/models", expired).status_code == 401, "the expired key is refused")
    messages = set()
    for secret in (revoked, expired, "sk-linnet-" + "0" * 64, "any"):
        with pytest.raises(openai.AuthenticationError) as caught:
            chat(guarded, secret)
        messages.add(caught.value.message)
        assert caught.value.code == "invalid_api_key"
    assert len(messages) == 1


def test_a_stream_that_has_begun_outlives_its_key(guarded):
    secret = guarded.key("ada")
    stream = chat(guarded, secret, stream=True)
    guarded.revoke("ada")
    eventually(lambda: get(guarded, "/v1/models", secret).status_code == 401, "the key is refused")
    assert "".join(part.choices[0].delta.content for part in stream) == "Hello from v1"


@pytest.mark.parametrize("model", ["secret-model", "secret-model:v1", "no-such-model", "m2", ""])
def test_a_key_may_use_its_models_alone_and_learns_of_no_other(guarded, model):
    secret = guarded.key("ada", models=("m", "elsewhere"))
    with pytest.raises(openai.PermissionDeniedError) as caught:
        chat(guarded, secret, model=model)
    assert (caught.value.code, caught.value.param) == ("model_not_allowed", "model")
    assert "It may use: m." in caught.value.message
    assert "secret-model" not in caught.value.message
    assert "elsewhere" not in caught.value.message
    assert chat(guarded, secret).model == "v1"
    assert chat(guarded, secret, model="m:v1").model == "v1"


def test_versions_that_are_not_there_tell_of_the_keys_model_alone(guarded):
    secret = guarded.key("ada", models=("m",))
    with pytest.raises(openai.NotFoundError) as caught:
        chat(guarded, secret, model="m:v9")
    assert "secret-model" not in caught.value.message


def test_a_key_of_one_model_need_not_name_it_and_a_key_of_none_here_gets_nothing(guarded):
    def post(secret):
        return httpx.post(
            f"{guarded.url}/v1/chat/completions", json={}, headers={"authorization": f"Bearer {secret}"}
        )

    assert post(guarded.key("ada", models=("m",))).status_code == 200
    assert_envelope(post(guarded.key("bob", models=("elsewhere",))), 403, "model_not_allowed")
    assert_envelope(post(guarded.key("eve")), 400, "missing_required_parameter")


def test_the_list_of_models_is_the_keys(guarded):
    def listed(secret):
        return [model.id for model in guarded.client(api_key=secret).models.list()]

    assert listed(guarded.key("ada", models=("m",))) == ["m", "m:v1"]
    assert listed(guarded.key("bob")) == ["m", "m:v1", "secret-model"]
    assert listed(guarded.key("eve", models=("elsewhere",))) == []


def test_metrics_need_an_admin_key_and_count_who_was_turned_away(guarded):
    plain, admin = guarded.key("ada", models=("m",)), guarded.key("root", admin=True)
    assert_envelope(get(guarded, "/metrics", plain), 403, "admin_required")
    with pytest.raises(openai.PermissionDeniedError):
        chat(guarded, plain, model="secret-model")
    with pytest.raises(openai.AuthenticationError):
        chat(guarded, "any")
    text = get(guarded, "/metrics", admin).text
    assert 'linnet_gateway_refused_total{reason="forbidden"} 2.0' in text
    assert 'linnet_gateway_refused_total{reason="unauthenticated"} 1.0' in text
    assert plain[10:18] not in text


@pytest.mark.parametrize("auth", ["none", "optional", "required"])
def test_admin_paths_may_be_public(launch, auth):
    stack = launch(auth=auth, admin_paths="public")
    assert get(stack, "/metrics").status_code == 200


def test_without_auth_any_bearer_will_do(stack):
    assert chat(stack, "any").model == "v1"
    assert chat(stack, "sk-linnet-unknown").model == "v1"
    assert get(stack, "/metrics").status_code == 200


def test_with_optional_keys_only_what_looks_like_one_must_be_one(launch):
    stack = launch(auth="optional")
    stack.engine("v1")
    stack.policy()
    assert chat(stack, "any").model == "v1"
    assert httpx.post(f"{stack.url}/v1/chat/completions", json={}).status_code == 200
    assert chat(stack, stack.key("ada")).model == "v1"
    with pytest.raises(openai.AuthenticationError):
        chat(stack, "sk-linnet-" + "0" * 64)
    with pytest.raises(openai.PermissionDeniedError):
        chat(stack, stack.key("bob", models=("elsewhere",)))
    assert_envelope(get(stack, "/metrics"), 401, "invalid_api_key")
    assert_envelope(get(stack, "/metrics", "any"), 401, "invalid_api_key")
    assert get(stack, "/metrics", stack.key("root", admin=True)).status_code == 200


def test_before_the_keys_are_read_nobody_is_told_that_theirs_is_wrong(database):
    from serve_apps.gateway.keys import KeyCache

    access = Access(GatewayConfig(model="m", auth="required"), KeyCache(database))
    refusal = access.identify([(b"authorization", b"Bearer sk-linnet-x")])
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (503, "keys_unknown", 1.0)
    assert not access.ready()


def test_a_gateway_that_needs_keys_cannot_be_built_without():
    with pytest.raises(ValueError, match="required"):
        Access(GatewayConfig(model="m", auth="required"), None)


def head(*lines: bytes) -> bytes:
    body = json.dumps({"model": "m"}).encode()
    fixed = (b"POST /v1/chat/completions HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body))
    return b"\r\n".join((*fixed, *lines)) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "value",
    [b"", b"Bearer", b"Bearer ", b"Basic abc", b"Bearer \xff\xfe", b"Bearer " + b"x" * 20_000, b"Bearer a b"],
)
def test_odd_authorization_headers_are_401(guarded, value):
    guarded.key("ada")
    answer = speak(guarded, head(b"Authorization: " + value))
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"invalid_api_key" in answer


def test_of_two_authorization_headers_none_counts(guarded):
    line = b"Authorization: Bearer " + guarded.key("ada").encode()
    assert speak(guarded, head(line)).startswith(b"HTTP/1.1 200")
    assert speak(guarded, head(line, line)).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    "line",
    [
        b"X-Linnet-Key: a\rX-Evil: 1",
        b"X-Request-Id: a\r X-Evil: 1",
        b"Authorization: Bearer a\rX-Evil: 1",
        b"Authorization: Bearer a\x00",
    ],
)
def test_header_injection_never_reaches_an_answer(guarded, line):
    answer = speak(guarded, head(line))
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 401"))
    assert b"X-Evil" not in answer
    assert not guarded.engines[0].requests


def test_a_key_never_reaches_the_log(guarded, caplog):
    secret = guarded.key("ada")
    chat(guarded, secret)
    with pytest.raises(openai.AuthenticationError):
        chat(guarded, secret + "0")
    assert secret not in caplog.text

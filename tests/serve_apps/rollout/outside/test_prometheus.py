from __future__ import annotations

import asyncio
import json
import subprocess

import httpx
import pytest

from cluster.errors import ConfigError
from serve_apps.rollout.outside.config import PrometheusGate
from serve_apps.rollout.outside.http_call import new_session
from serve_apps.rollout.outside.placeholders import Names
from serve_apps.rollout.outside.prometheus import PrometheusClient
from serve_apps.rollout.outside.verdict import Verdict
from tests.monitoring.conftest import prometheus_folder
from tests.serve_apps.gateway.servers import eventually
from tests.serve_apps.rollout.outside.outsiders import (
    breaks,
    floods,
    hangs,
    nobody,
    outsider,
    says,
    trickles,
)

__all__ = ["prometheus_folder"]

NAMES = Names("smollm2", "v3", "v2")


def make_gate(url="http://localhost:9090", query="q", timeout="20s", token_env=None, **limits):
    asked = {"url": url, "query": query, "timeout": timeout, "token_env": token_env}
    return PrometheusGate.model_validate({"prometheus": asked} | (limits or {"max": 3}))


def ask(handler, *, check=False, environ=None, **gate):
    async def scenario():
        async with outsider(handler) as server:
            client = PrometheusClient(make_gate(server.url + "/prom/", **gate), server.session, environ or {})
            act = client.check_at_start if check else client.read
            return await act(NAMES), server.received

    return asyncio.run(scenario())


def result(found, kind="vector"):
    body = {"status": "success", "data": {"resultType": kind, "result": found}}
    return says(text=json.dumps(body), content_type="application/json")


def one(text):
    return result([{"metric": {}, "value": [1800000000.1, text]}])


def error(status, kind="bad_data"):
    body = {"status": "error", "errorType": kind, "error": 'invalid parameter "query"'}
    return says(status, json.dumps(body), "application/json")


@pytest.mark.parametrize(
    ("value", "limits", "verdict", "reason"),
    [
        ("2.5", {"max": 3}, Verdict.PASS, "2.5 is not above the maximum of 3"),
        ("3", {"max": 3}, Verdict.PASS, "3 is not above the maximum of 3"),
        ("3.01", {"max": 3}, Verdict.FAIL, "3.01 is above the maximum of 3"),
        ("0.4", {"min": 0.5}, Verdict.FAIL, "0.4 is below the minimum of 0.5"),
        ("0.5", {"min": 0.5}, Verdict.PASS, "0.5 is not below the minimum of 0.5"),
        ("1", {"min": 0, "max": 2}, Verdict.PASS, "1 is within the limits of 0 and 2"),
        ("-1", {"min": 0, "max": 2}, Verdict.FAIL, "-1 is below the minimum of 0"),
        ("3", {"min": 0, "max": 2}, Verdict.FAIL, "3 is above the maximum of 2"),
    ],
)
def test_one_number_is_held_against_the_limits(value, limits, verdict, reason):
    reading, _ = ask(one(value), **limits)
    assert (reading.verdict, reading.reason, reading.value) == (verdict, reason, float(value))


def test_a_scalar_is_a_number_too():
    assert ask(result([1800000000, "2"], "scalar"))[0].value == 2


def test_the_query_is_sent_with_the_names_in_it_and_the_token_of_the_environment():
    reading, [(headers, body)] = ask(
        one("1"),
        query='up{model="{{model}}", version="{{ candidate }}"} > {{stable}}',
        token_env="PROM",
        environ={"PROM": "secret"},
    )
    assert reading.query == 'up{model="smollm2", version="v3"} > v2'
    assert headers["authorization"] == "Bearer secret"
    assert httpx.QueryParams(body.decode())["query"] == reading.query
    assert httpx.QueryParams(body.decode())["timeout"] == "20s"


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (result([]), "there is no series that fits, or none with a recent value"),
        (result([{"value": [1, "1"]}, {"value": [1, "2"]}]), "there are 2 series where one is expected"),
        (one("NaN"), "the value is NaN, which cannot be compared"),
        (one("+Inf"), "the value is +Inf, which cannot be compared"),
        (one("-Inf"), "the value is -Inf, which cannot be compared"),
        (one("many"), "the answer is not one of Prometheus: it has no value"),
        (one(None), "the answer is not one of Prometheus: it has no value"),
        (result([{}]), "the answer is not one of Prometheus: it has no value"),
        (result(["1"]), "the answer is not one of Prometheus: it has no value"),
        (result({"value": [1, "1"]}), "there is no series that fits"),
        (result([{"metric": {}, "values": []}], "matrix"), "the result is a matrix, not a number"),
        (result([1, "text"], "string"), "the result is a string, not a number"),
        (says(200, "[]", "application/json"), "the answer is not one of Prometheus: it has no result"),
        (says(200, '{"data": null}', "application/json"), "the answer is not one of Prometheus"),
        (says(200, "welcome", "text/html"), "the answer cannot be read: its content-type is text/html"),
        (floods, "the answer cannot be read"),
        (error(400), 'Prometheus answered 400: bad_data: invalid parameter "query"'),
        (error(422, "execution"), "Prometheus answered 422: execution: "),
        (error(503, "timeout"), "Prometheus answered 503: timeout: "),
        (says(500, "oops"), "Prometheus answered 500: oops"),
        (says(401, "who?"), "Prometheus answered 401: who?"),
        (says(302, Location="/login"), "the answer is a redirect (302), which is not followed"),
        (hangs, "there was no whole answer within 0.3 s"),
        (trickles, "there was no whole answer within 0.3 s"),
        (breaks, "there was no answer: "),
    ],
)
def test_what_is_no_number_is_inconclusive_and_says_why(handler, reason):
    timeout = "300ms" if handler in (hangs, trickles) else "20s"
    reading, _ = ask(handler, timeout=timeout)
    assert reading.verdict is Verdict.INCONCLUSIVE
    assert reading.value is None
    assert reading.reason.startswith(reason)


def test_a_prometheus_that_is_not_there_is_inconclusive_at_the_start_too():
    async def scenario():
        async with new_session() as session:
            client = PrometheusClient(make_gate(nobody()), session, {})
            return [await client.read(NAMES), await client.check_at_start(NAMES)]

    assert {reading.verdict for reading in asyncio.run(scenario())} == {Verdict.INCONCLUSIVE}


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (error(400), "bad_data"),
        (says(401, "who?"), "401"),
        (says(403, "not you"), "403"),
        (says(404, "page not found"), "404"),
        (says(405, "read only"), "405"),
        (result([], "matrix"), "the result is a matrix, not a number"),
    ],
)
def test_what_would_never_give_a_number_stops_the_start(handler, said):
    with pytest.raises(ConfigError) as caught:
        ask(handler, check=True, query="sum({{model}}")
    assert caught.value.code == "rollout.prometheus_query"
    assert "`sum(smollm2`" in caught.value.message
    assert said in caught.value.message


@pytest.mark.parametrize("handler", [result([]), one("NaN"), error(503, "timeout"), error(422, "execution")])
def test_what_may_come_later_does_not_stop_the_start(handler):
    assert ask(handler, check=True)[0].verdict is Verdict.INCONCLUSIVE


def test_a_number_at_the_start_is_judged_as_later():
    assert ask(one("4"), check=True)[0].verdict is Verdict.FAIL


def test_a_token_that_is_not_set_stops_the_start():
    with pytest.raises(ConfigError, match="PROM, which is not set"):
        PrometheusClient(make_gate(token_env="PROM"), session=None, environ={})


@pytest.fixture
def prometheus(prometheus_folder, tmp_path):
    """The URL of a real one that scrapes nothing."""
    url = nobody()
    (tmp_path / "prometheus.yaml").write_text("scrape_configs: []\n")
    command = [
        prometheus_folder / "prometheus",
        f"--config.file={tmp_path / 'prometheus.yaml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]

    def ready():
        try:
            return httpx.get(f"{url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            eventually(ready, "Prometheus has started")
            yield url
        finally:
            process.terminate()


def test_a_real_prometheus_is_understood(prometheus):
    async def scenario(query, check):
        async with new_session() as session:
            client = PrometheusClient(make_gate(prometheus, query), session, {})
            return await (client.check_at_start if check else client.read)(NAMES)

    def read(query, *, check=False):
        return asyncio.run(scenario(query, check))

    assert read("vector(2)").verdict is Verdict.PASS
    assert read("scalar(vector(4))").verdict is Verdict.FAIL
    assert read('nothing{version="{{candidate}}"}').reason.startswith("there is no series")
    assert read("vector(0) / vector(0)").reason == "the value is NaN, which cannot be compared"
    assert read("vector(1) / vector(0)").reason == "the value is +Inf, which cannot be compared"
    two = 'label_replace(vector(1), "a", "1", "", "") or label_replace(vector(2), "a", "2", "", "")'
    assert read(two).reason.startswith("there are 2 series")
    assert read("sum(").reason.startswith("Prometheus answered 400: bad_data: ")
    for query in ("sum(", "up[5m]", '"text"'):
        with pytest.raises(ConfigError):
            read(query, check=True)
    assert read("vector(2)", check=True).value == 2

"""The real Prometheus, with the files as they ship, follows a real gateway and computes all that ships."""

from __future__ import annotations

import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from tests.monitoring.shipped import ALERTS, FOLDER, board_expressions
from tests.monitoring.test_promtool import OPTIONAL
from tests.serve_apps.gateway.servers import LoopThread, eventually
from tests.serve_apps.gateway.test_observation import told, whole


@dataclass
class Prometheus:
    url: str

    def query(self, expression: str) -> list[dict]:
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", (expression, answer)
        result = answer["data"]["result"]
        return result if answer["data"]["resultType"] == "vector" else []

    def value(self, expression: str) -> float | None:
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None

    def rules(self) -> list[dict]:
        groups = httpx.get(f"{self.url}/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


class Dashboard:
    """What Ray's dashboard and one of its hosts tell Prometheus, the former to holders of the token alone."""

    def __init__(self, loop: LoopThread) -> None:
        self._loop = loop
        loop.run(self._start())

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/api/prometheus/sd", self._targets)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.address = f"127.0.0.1:{site._server.sockets[0].getsockname()[1]}"

    async def _targets(self, request: web.Request) -> web.Response:
        if request.headers.get("authorization") != "Bearer token":
            raise web.HTTPUnauthorized
        return web.json_response([{"labels": {"job": "ray"}, "targets": [self.address]}])

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            text='ray_node_mem_used{ip="10.0.0.7"} 30\nray_node_mem_total{ip="10.0.0.7"} 100\n'
        )

    def stop(self) -> None:
        self._loop.run(self._runner.cleanup())


def configure(folder: Path, gateway: str, dashboard: str, key: str) -> None:
    """The user's own changes: where the endpoint is, the key; and a quicker pace, for a test."""
    shutil.copytree(FOLDER, folder)
    (folder / "linnet_key").write_text(key)
    (folder / "ray_token").write_text("token")
    text = (folder / "prometheus.yaml").read_text()
    text = OPTIONAL.sub(lambda line: line[1] + line[2] if "linnet_key" in line[0] else line[0], text)
    text = text.replace("127.0.0.1:8000", gateway).replace("127.0.0.1:8265", dashboard)
    (folder / "prometheus.yaml").write_text(text.replace("15s", "1s"))


@pytest.fixture
def gateway(launch):
    """A gateway that asks for keys, before a replica of a stable version and one of a candidate."""
    stack = launch(auth="required", replica_key="secret")
    stack.engine("v1", told)
    stack.engine("v2", whole)
    stack.policy("v1", candidate="v2", weight=25)
    stack.directory.beside = (stack.url.removeprefix("http://"),)
    return stack


@pytest.fixture
def dashboard(loop_thread):
    dashboard = Dashboard(loop_thread)
    yield dashboard
    dashboard.stop()


@pytest.fixture
def prometheus(prometheus_folder, gateway, dashboard, tmp_path):
    folder = tmp_path / "monitoring"
    key = gateway.key("prometheus", admin=True)
    configure(folder, gateway.url.removeprefix("http://"), dashboard.address, key)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [
        prometheus_folder / "prometheus",
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield Prometheus(f"http://{address}")
        finally:
            process.terminate()


def answers(prometheus: Prometheus) -> bool:
    try:
        return httpx.get(f"{prometheus.url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_it_finds_the_gateways_by_itself_and_every_rule_and_panel_computes(prometheus, gateway):
    eventually(lambda: answers(prometheus), "Prometheus has started")
    eventually(
        lambda: prometheus.value('sum(up{job="linnet-gateway"})') == 1, "the gateway is found and asked"
    )
    key = gateway.key("ada")
    client = gateway.client(api_key=key)
    for version in ("v1", "v2"):
        headers = {"x-linnet-version": version}
        body = {"model": "m", "messages": [{"role": "user", "content": "Hello?"}], "extra_headers": headers}
        answer = client.chat.completions.create(**body, stream=version == "v1")
        assert list(answer)
    counted = 'sum(linnet_gateway_tokens_total{kind="completion"})'
    eventually(lambda: prometheus.value(counted) == 6, "what was answered is scraped")

    by_role = {
        (one["metric"]["role"], one["metric"]["version"])
        for one in prometheus.query("model_version_role:linnet_gateway_version_info:one")
    }
    assert by_role == {("stable", "v1"), ("candidate", "v2")}
    assert prometheus.value('linnet_gateway_weight{version="v2"}') == 25
    assert prometheus.value("ip:ray_node_mem_used:ratio") == 0.3
    for expression in board_expressions().values():
        prometheus.query(expression)
    eventually(lambda: all(rule["health"] == "ok" for rule in prometheus.rules()), "every rule is computed")
    firing = {rule["name"] for rule in prometheus.rules() if rule.get("state") == "firing"}
    assert firing == set()
    assert {rule["name"] for rule in prometheus.rules()} >= set(ALERTS)

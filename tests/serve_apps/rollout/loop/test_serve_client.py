from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cluster.errors import ConflictError, EnvironmentSetupError
from serve_apps.rollout.loop.serve_client import RayServe
from tests.serve_apps.rollout import world
from tests.serve_apps.rollout.loop.serving import GATEWAY

VERSION = {"version": "4", "ray_version": "2", "ray_commit": "c", "session_name": "s"}


class Dashboard(BaseHTTPRequestHandler):
    """Answers as Ray's dashboard does; refuses a config without applications."""

    given: list[dict]

    def do_GET(self):
        details = {"proxy_location": "EveryNode", "applications": {"g": {"deployed_app_config": GATEWAY}}}
        self._answer(200, VERSION if "version" in self.path else details)

    def do_PUT(self):
        config = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.given.append(config)
        self._answer(200 if config["applications"] else 400, {})

    def _answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def dashboard(monkeypatch):
    Dashboard.given = []
    server = HTTPServer(("127.0.0.1", 0), Dashboard)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    yield Dashboard
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


def test_a_config_goes_there_and_back(dashboard, tmp_path):
    serve = RayServe(world.settings_at(tmp_path))
    found = serve.config()
    assert found == {"proxy_location": "EveryNode", "applications": [GATEWAY]}
    serve.deploy(found)
    assert dashboard.given == [found]


def test_a_config_that_serve_refuses_is_a_conflict(dashboard, tmp_path):
    with pytest.raises(ConflictError) as caught:
        RayServe(world.settings_at(tmp_path)).deploy({"applications": []})
    assert caught.value.code == "loop.refused"


def test_without_a_cluster_it_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_DASHBOARD_ADDRESS", raising=False)
    with pytest.raises(EnvironmentSetupError, match="RAY_DASHBOARD_ADDRESS names none"):
        RayServe(world.settings_at(tmp_path)).config()


def test_a_cluster_that_does_not_answer_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(EnvironmentSetupError) as caught:
        RayServe(world.settings_at(tmp_path)).config()
    assert (caught.value.code, caught.value.retryable) == ("loop.no_serve", True)

"""What all tests share: the session-wide Ray cluster, started when a test first asks for it."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from cluster import runtime
from cluster.config import Settings
from cluster.runtime import ClusterInfo
from tests.support.endpoint import Endpoint, publish_tiny_versions

CPUS = 8.0

# A busy machine is slow, which says nothing about the code.
hypothesis_settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("steady")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory) -> Path:
    """The LINNET_HOME of the session-wide cluster."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def shared_settings(shared_home) -> Settings:
    return Settings(
        home=shared_home, root=str(shared_home), state_url=f"sqlite:///{shared_home}/state/linnet.db"
    )


@pytest.fixture(scope="session")
def shared_cluster(shared_settings) -> ClusterInfo:
    """A cluster as `linnet up` starts it, on free ports; ended with the session."""
    info = runtime.up(
        shared_settings,
        num_cpus=CPUS,
        gcs_port=free_port(),
        dashboard_port=free_port(),
        serve_port=free_port(),
    )
    yield info
    assert runtime.down(shared_settings) == []


@pytest.fixture(scope="session")
def shared_endpoint(shared_cluster, shared_settings, tmp_path_factory) -> Endpoint:
    """The tiny model's v1 and v2 behind a gateway, deployed by `serve deploy`."""
    publish_tiny_versions(shared_settings, tmp_path_factory.mktemp("weights"), ["v1", "v2"])
    endpoint = Endpoint(shared_cluster, shared_settings, tmp_path_factory.mktemp("endpoint"))
    endpoint.deploy(["v1", "v2"])
    endpoint.wait_until_serving(["v1", "v2"])
    return endpoint


@pytest.fixture(autouse=True)
def _no_stray_settings(monkeypatch):
    """Nothing of the caller's own installation reaches a test."""
    for name in list(os.environ):
        if name.startswith("LINNET_") and name not in ("LINNET_ENV_CACHE", "LINNET_PYTHON"):
            monkeypatch.delenv(name)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

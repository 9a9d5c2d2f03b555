from __future__ import annotations

import pytest

from cluster.errors import EnvironmentSetupError
from cluster.tls import haproxy
from cluster.tls.pair import CERTFILE, KEYFILE
from serve_apps import app


@pytest.fixture(autouse=True)
def with_direct_ingress(monkeypatch):
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    monkeypatch.delenv(haproxy.BINARY, raising=False)


def test_a_certificate_that_haproxy_would_not_use_is_refused(monkeypatch):
    monkeypatch.setenv(CERTFILE, "c.pem")
    monkeypatch.setenv(KEYFILE, "k.pem")
    with pytest.raises(EnvironmentSetupError, match="would be plain") as caught:
        app.gateway({"model": "m"})
    assert haproxy.PROGRAM in caught.value.hint
    monkeypatch.setenv(haproxy.BINARY, haproxy.launcher())
    assert app.gateway({"model": "m"})


def test_a_plain_endpoint_needs_nothing_of_it():
    assert app.gateway({"model": "m"})

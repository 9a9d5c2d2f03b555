from __future__ import annotations

import pytest

from cluster.errors import ConfigError, EnvironmentSetupError
from cluster.manifest import Golden, VersionKind
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from cluster.tls import haproxy
from cluster.tls.pair import CERTFILE, KEYFILE
from serve_apps import app
from tests.support.version_files import write_adapter, write_model

GOLDEN = Golden(dtype="float32", transformers_version="5", answers=[])


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


def test_an_adapter_is_no_application_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("LINNET_HOME", str(tmp_path))
    store = ModelStore.open()
    for label, kind, source, parent in (
        ("v1", VersionKind.BASE, write_model(tmp_path / "base"), None),
        ("v2", VersionKind.ADAPTER, write_adapter(tmp_path / "adapter"), "m:v1"),
    ):
        ref = VersionRef(model="m", version=label)
        store.publish(source, ref, kind=kind, source_label="t", parent=parent, golden=GOLDEN)
    with pytest.raises(ConfigError, match="`m:v2` is an adapter") as caught:
        app.version({"version": "m:v2"})
    assert "adapters: [m:v2]" in caught.value.hint
    store.database.dispose()

import pytest

from cluster.errors import ConfigError
from cluster.manifest import Golden, VersionKind
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from serve_apps import app
from tests.support.version_files import write_adapter, write_model

GOLDEN = Golden(dtype="float32", transformers_version="5", answers=[])


def test_an_adapter_is_no_application_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("LINNET_HOME", str(tmp_path))
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
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

import pytest

from cluster.errors import GateFailedError
from cluster.manifest import VersionKind, VersionManifest
from serve_apps.adapters.fitting import require_fit


def manifest(version, kind=VersionKind.ADAPTER, **more):
    facts = {"parent": "m:v1", "architecture": "LORA", "tokenizer_sha256": "t", "chat_template_sha256": "c"}
    return VersionManifest(
        files={},
        model="m",
        version=version,
        kind=kind,
        source="s",
        dtype="float32",
        parameters=1,
        **facts | more,
    )


BASE = manifest("v1", VersionKind.BASE, parent=None, architecture="LlamaForCausalLM")


def test_an_adapter_of_this_base_fits():
    require_fit(manifest("v2"), BASE, has_lora=True)


@pytest.mark.parametrize(
    ("adapter", "has_lora", "code"),
    [
        (manifest("v2"), False, "adapters.no_lora"),
        (manifest("v2", VersionKind.MERGED, architecture="LlamaForCausalLM"), True, "adapters.kind"),
        (manifest("v2", architecture="IA3"), True, "adapters.kind"),
        (manifest("v2", parent="m:v0"), True, "adapters.other_base"),
        (manifest("v2", parent=None), True, "adapters.other_base"),
        (manifest("v2", tokenizer_sha256="another"), True, "adapters.other_prompting"),
        (manifest("v2", chat_template_sha256=None), True, "adapters.other_prompting"),
    ],
)
def test_anything_else_is_refused_before_it_is_loaded(adapter, has_lora, code):
    with pytest.raises(GateFailedError) as caught:
        require_fit(adapter, BASE, has_lora=has_lora)
    assert caught.value.code == code
    assert caught.value.hint

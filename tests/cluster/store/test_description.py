import hashlib
import json

import pytest

from cluster.errors import IntegrityError
from cluster.manifest import VersionKind
from cluster.store.description import describe, publishable_files
from tests.support.version_files import TEMPLATE, write_adapter, write_model, write_safetensors

TEMPLATE_HASH = hashlib.sha256(TEMPLATE.encode()).hexdigest()


def test_a_base_model_is_described_from_its_files(tmp_path):
    model = write_model(tmp_path / "m", rows=10)

    facts = describe(model, VersionKind.BASE)

    assert facts.architecture == "TinyForCausalLM"
    assert facts.parameters == 10 * 8 + 8
    assert facts.dtype == "bfloat16"
    assert facts.tokenizer_sha256 == hashlib.sha256((model / "tokenizer.json").read_bytes()).hexdigest()
    assert facts.chat_template_sha256 == TEMPLATE_HASH


def test_the_dtype_is_the_one_of_most_bytes(tmp_path):
    assert describe(write_model(tmp_path / "m", rows=1), VersionKind.BASE).dtype == "float32"


def test_a_template_inside_the_tokenizer_config_has_the_same_hash(tmp_path):
    model = write_model(tmp_path / "m")
    (model / "chat_template.jinja").unlink()
    assert describe(model, VersionKind.BASE).chat_template_sha256 is None

    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    assert describe(model, VersionKind.BASE).chat_template_sha256 == TEMPLATE_HASH


def test_an_adapter_needs_no_config_and_no_tokenizer(tmp_path):
    facts = describe(write_adapter(tmp_path / "a"), VersionKind.ADAPTER)

    assert (facts.architecture, facts.dtype, facts.parameters) == ("LORA", "float32", 8)
    assert facts.tokenizer_sha256 is None


def test_shards_are_counted_together_and_a_missing_one_is_named(tmp_path):
    model = write_model(tmp_path / "m")
    (model / "model.safetensors").unlink()
    for number in (1, 2):
        write_safetensors(model / f"model-{number}.safetensors", {f"w{number}": ("BF16", [4], bytes(8))})
    index = {"weight_map": {"w1": "model-1.safetensors", "w2": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert describe(model, VersionKind.BASE).parameters == 8

    (model / "model-2.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"model-2\.safetensors"):
        describe(model, VersionKind.BASE)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    model = write_model(tmp_path / "m")
    (model / name).unlink()

    with pytest.raises(IntegrityError, match=name):
        describe(model, VersionKind.BASE)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", "{}"),
        ("tokenizer.json", "\x00"),
        ("tokenizer_config.json", "nope"),
        ("model.safetensors", "nope"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, name, raw):
    model = write_model(tmp_path / "m")
    (model / name).write_text(raw)
    if name == "tokenizer_config.json":
        (model / "chat_template.jinja").unlink()

    with pytest.raises(IntegrityError):
        describe(model, VersionKind.BASE)


def test_hidden_files_and_an_old_manifest_are_not_published(tmp_path):
    model = write_model(tmp_path / "m")
    before = publishable_files(model)
    (model / ".cache").mkdir()
    for name in (".cache/x", ".gitattributes", "manifest.json"):
        (model / name).write_text("x")

    assert publishable_files(model) == before
    assert "model.safetensors" in before

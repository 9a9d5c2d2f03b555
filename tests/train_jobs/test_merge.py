import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.errors import ConfigError, IntegrityError
from train_jobs import merge
from train_jobs.model import build, load_base, trainable


@pytest.fixture
def adapter(spec, tiny_dir, tmp_path):
    """An adapter that changes the model, as PEFT saves it."""
    model = build(spec, tiny_dir, "tiny:v1")
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.add_(0.05)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    return tmp_path / "adapter"


@pytest.fixture
def weights(tiny_dir, tmp_path):
    """All of the base's weights, moved."""
    moved = {name: tensor + 0.1 for name, tensor in load_base(tiny_dir).named_parameters()}
    save_file(moved, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_both_ways_keep_the_stored_dtype_and_round_once(tiny_dir, adapter, weights, tmp_path, dtype):
    merge.merge(tiny_dir, adapter, tmp_path / "merged", base="tiny:v1", dtype=dtype)
    merge.fill(tiny_dir, weights, tmp_path / "filled", dtype=dtype)
    stored = getattr(torch, dtype)
    for name in ("merged", "filled"):
        found = load_file(tmp_path / name / "model.safetensors")
        assert {tensor.dtype for tensor in found.values()} == {stored}
    for name, tensor in load_file(weights).items():
        assert torch.equal(found[name], tensor.to(stored)), name


def test_everything_but_the_weights_is_the_bases_own(tiny_dir, weights, tmp_path):
    merge.fill(tiny_dir, weights, tmp_path / "filled", dtype="bfloat16")
    for path in tiny_dir.iterdir():
        if path.suffix != ".safetensors":
            assert (tmp_path / "filled" / path.name).read_bytes() == path.read_bytes()


def test_tied_weights_stay_one(tiny_dir, tmp_path):
    tied = load_base(tiny_dir)
    tied.config.tie_word_embeddings = True
    tied.tie_weights()
    tied.save_pretrained(tmp_path / "tied")
    moved = {name: tensor + 0.1 for name, tensor in tied.named_parameters()}
    save_file(moved, tmp_path / "weights.safetensors")
    merge.fill(tmp_path / "tied", tmp_path / "weights.safetensors", tmp_path / "filled", dtype="float32")
    filled = load_base(tmp_path / "filled")
    assert filled.lm_head.weight is filled.model.embed_tokens.weight
    assert torch.equal(filled.lm_head.weight, moved["model.embed_tokens.weight"])


def test_weights_of_another_model_are_refused_by_name(tiny_dir, weights, tmp_path):
    fewer = load_file(weights)
    del fewer["model.norm.weight"]
    save_file(fewer, weights)
    with pytest.raises(IntegrityError, match=r"model\.norm\.weight"):
        merge.fill(tiny_dir, weights, tmp_path / "filled", dtype="float32")
    assert not (tmp_path / "filled").exists()


def test_an_adapter_of_another_base_is_refused(tiny_dir, adapter, tmp_path):
    with pytest.raises(IntegrityError, match=r"belongs to `tiny:v1`.*into `tiny:v2`") as caught:
        merge.merge(tiny_dir, adapter, tmp_path / "merged", base="tiny:v2", dtype="float32")
    assert caught.value.code == "train.adapter_mismatch"
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("dtype", ["int8", "load", "float33"])
def test_a_dtype_that_holds_no_fractions_is_refused(tiny_dir, adapter, weights, tmp_path, dtype):
    for act in (
        lambda: merge.merge(tiny_dir, adapter, tmp_path / "out", base="tiny:v1", dtype=dtype),
        lambda: merge.fill(tiny_dir, weights, tmp_path / "out", dtype=dtype),
    ):
        with pytest.raises(ConfigError, match=dtype):
            act()

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from cluster.errors import ConfigError, IntegrityError
from train_jobs.dataset import load_packed
from train_jobs.model import (
    attach_lora,
    autocast,
    build,
    collate,
    load_base,
    reference,
    summed_loss,
    trainable,
)
from train_jobs.spec import Method, PeftSpec, QuantizationSpec


@pytest.fixture(scope="module")
def base(tiny_dir):
    return load_base(tiny_dir).eval()


@pytest.fixture
def packed(data_file, tiny_dir):
    return load_packed(str(data_file), tiny_dir, max_length=512)


def test_rows_are_padded_on_the_right_and_the_padding_takes_no_loss(packed):
    batch = collate(packed, [0, 4], pad_id=2)
    short, long = packed.lengths([0]), packed.lengths([4])
    assert batch.input_ids.shape == (2, long)
    assert batch.attention_mask.sum(dim=1).tolist() == [short, long]
    assert (batch.labels[0, short:] == -100).all()
    assert (batch.input_ids[0, short:] == 2).all()


def test_the_loss_is_the_plain_cross_entropy_over_answer_tokens(base, packed):
    batch = collate(packed, [0, 1, 4, 9], pad_id=2)
    with torch.no_grad():
        logits = base(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        plain = functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
        )
        assert summed_loss(base, batch).item() == pytest.approx(plain.item(), rel=1e-5)


def test_the_loss_does_not_depend_on_how_rows_are_batched(base, packed):
    with torch.no_grad():
        whole = summed_loss(base, collate(packed, [0, 1, 4, 9], pad_id=2)).item()
        parts = sum(summed_loss(base, collate(packed, [i], pad_id=2)).item() for i in (0, 1, 4, 9))
    assert whole == pytest.approx(parts, rel=1e-5)


def test_lora_trains_its_own_weights_alone_and_begins_the_same_for_a_seed(tiny_dir):
    spec = PeftSpec(r=4)
    one, two, other = (attach_lora(load_base(tiny_dir), spec, seed) for seed in (1, 1, 2))
    names = [name for name, p in one.named_parameters() if p.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    assert all(torch.equal(a, b) for a, b in zip(trainable(one), trainable(two), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(trainable(one), trainable(other), strict=True))


def test_target_modules_that_the_model_lacks_are_named(tiny_dir):
    with pytest.raises(ConfigError, match="q_projection"):
        attach_lora(load_base(tiny_dir), PeftSpec(target_modules=("q_projection",)), 0)


def test_a_misspelt_target_beside_a_right_one_is_named_with_the_nearest(tiny_dir):
    with pytest.raises(ConfigError, match=r"`v_porj`.*Did you mean `v_proj`\?") as caught:
        attach_lora(load_base(tiny_dir), PeftSpec(target_modules=("q_proj", "v_porj")), 0)
    assert caught.value.code == "train.target_modules"
    assert "down_proj" in caught.value.hint


def test_targets_may_be_named_by_their_whole_path_or_by_a_pattern(tiny_dir):
    for targets in (("model.layers.0.self_attn.q_proj", "v_proj"), r".*\.[qv]_proj"):
        assert trainable(attach_lora(load_base(tiny_dir), PeftSpec(target_modules=targets), 0))


def changed(spec, **updates):
    return spec.model_copy(update=updates)


def gradients(model, batch):
    torch.manual_seed(3)
    model.train().zero_grad()
    summed_loss(model, batch).backward()
    return [parameter.grad for parameter in trainable(model)]


def test_without_peft_every_weight_of_the_base_is_trained(spec, tiny_dir, base):
    model = build(changed(spec, peft=None), tiny_dir, "tiny:v1")
    assert len(trainable(model)) == len(list(base.parameters())) == len(list(model.parameters()))
    assert {parameter.dtype for parameter in trainable(model)} == {torch.float32}
    for name, tensor in base.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_an_adapter_says_which_version_it_belongs_to_and_follows_the_seed(spec, tiny_dir):
    models = [build(changed(spec, seed=seed), tiny_dir, "tiny:v1") for seed in (1, 1, 2)]
    assert models[0].peft_config["default"].base_model_name_or_path == "tiny:v1"
    one, two, other = map(trainable, models)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("peft", [None, PeftSpec(r=4, lora_dropout=0.1)], ids=["full", "lora"])
def test_gradient_checkpointing_changes_no_gradient(spec, tiny_dir, packed, peft):
    batch = collate(packed, [0, 1, 4], pad_id=2)
    plain, checkpointed = (
        gradients(build(changed(spec, peft=peft, gradient_checkpointing=on), tiny_dir, "tiny:v1"), batch)
        for on in (False, True)
    )
    assert len(plain) == len(checkpointed) > 0
    assert all(torch.equal(a, b) for a, b in zip(plain, checkpointed, strict=True))
    assert any(gradient.any() for gradient in plain)


def test_gradient_checkpointing_runs_layers_again_instead_of_keeping_them(spec, tiny_dir, packed):
    model = build(changed(spec, gradient_checkpointing=True), tiny_dir, "tiny:v1").train()
    calls = []
    layer = model.get_base_model().model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    loss = summed_loss(model, collate(packed, [0, 1], pad_id=2))
    assert len(calls) == 1
    loss.backward()
    assert len(calls) == 2


@pytest.mark.parametrize(
    "bits",
    [None, QuantizationSpec(load_in_4bit=True), QuantizationSpec(load_in_8bit=True)],
    ids=["lora", "nf4", "int8"],
)
def test_bf16_computes_in_bfloat16_and_keeps_weights_and_gradients_in_float32(spec, tiny_dir, packed, bits):
    batch = collate(packed, [0, 1, 4], pad_id=2)
    half = changed(spec, bf16=True, quantization=bits, peft=PeftSpec(r=4))
    exact = build(changed(half, bf16=False), tiny_dir, "tiny:v1").eval()
    model = build(half, tiny_dir, "tiny:v1").eval()
    with autocast(half):
        loss = summed_loss(model, batch)
    loss.backward()
    assert loss.dtype is torch.float32
    assert {p.dtype for p in trainable(model)} == {p.grad.dtype for p in trainable(model)} == {torch.float32}
    with autocast(changed(half, bf16=False)):
        expected = summed_loss(exact, batch).item()
    assert loss.item() != expected
    assert loss.item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("bits", [None, QuantizationSpec(load_in_4bit=True)], ids=["plain", "nf4"])
def test_a_base_with_nan_or_infinity_is_refused_by_the_tensors_name(spec, tiny_dir, tmp_path, bad, bits):
    broken = shutil.copytree(tiny_dir, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = bad
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=r"layers\.1\.mlp\.down_proj") as caught:
        build(changed(spec, quantization=bits), broken, "tiny:v1")
    assert caught.value.code == "train.bad_weights"


def test_full_dpo_alone_needs_a_frozen_reference(spec, tiny_dir):
    assert reference(spec, tiny_dir) is None
    assert reference(changed(spec, method=Method.DPO), tiny_dir) is None
    assert reference(changed(spec, peft=None), tiny_dir) is None
    frozen = reference(changed(spec, method=Method.DPO, peft=None), tiny_dir)
    assert trainable(frozen) == []
    assert not frozen.training


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gpt_neox"])
def test_other_causal_models_are_trained_too(spec, packed, tmp_path, family):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"n_embd": 64, "n_layer": 1, "n_head": 2} if family == "gpt2" else {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2,
    }  # fmt: skip
    config = AutoConfig.for_model(family, vocab_size=300, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / family)
    batch = collate(packed, [0, 1], pad_id=2)
    for peft in (None, PeftSpec(r=4)):
        model = build(changed(spec, peft=peft), tmp_path / family, "other:v1")
        assert any(gradient is not None and gradient.any() for gradient in gradients(model, batch))

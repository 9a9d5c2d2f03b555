import pytest
import torch
from torch.nn import functional

from cluster.errors import ConfigError
from train_jobs.dataset import load_packed
from train_jobs.model import attach_lora, collate, load_base, summed_loss, trainable
from train_jobs.spec import PeftSpec


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

import json
import math

import pytest
import torch

from cluster.errors import ConfigError
from train_jobs.dataset import load_packed, load_pairs
from train_jobs.model import attach_lora, collate, load_base, summed_loss, trainable
from train_jobs.objectives import DpoObjective, SftObjective, answer_log_probs, make_objective
from train_jobs.spec import DpoSpec, Method, PeftSpec

SAMPLES = [0, 1, 2, 3]
LORA = PeftSpec(r=4)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, tiny_dir):
    """Even numbers deserve a yes, odd ones a no; prompts and answers differ in length."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {
            "prompt": f"Is {n} even?{' Really?' * (n % 3)}",
            "chosen": ("yes", "not at all")[n % 2],
            "rejected": ("not at all", "yes")[n % 2],
        }
        for n in range(16)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return load_pairs(str(path), tiny_dir, max_length=512)


def moved(model, seed=1):
    """The same model with trainable weights a little elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def log_prob_by_hand(model, dataset, index):
    """Of one sample alone, without padding."""
    ids, labels = (torch.from_numpy(part.astype("int64")) for part in dataset.sample(index))
    with torch.no_grad():
        log_probs = model(input_ids=ids[None]).logits[0].float().log_softmax(-1)
    return sum(
        log_probs[place - 1, ids[place]].item() for place in range(1, len(ids)) if labels[place] != -100
    )


def rewards_by_hand(policy, reference, side, beta):
    return [
        beta * (log_prob_by_hand(policy, side, i) - log_prob_by_hand(reference, side, i)) for i in SAMPLES
    ]


@pytest.fixture
def policy(tiny_dir):
    return moved(attach_lora(load_base(tiny_dir), LORA, 0)).eval()


@pytest.fixture(scope="module")
def base(tiny_dir):
    return load_base(tiny_dir).eval().requires_grad_(False)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_dpo_loss_and_rewards_are_those_computed_by_hand(policy, base, pairs, smoothing):
    objective = DpoObjective(pairs, 0, DpoSpec(beta=0.3, label_smoothing=smoothing))
    loss, metrics = objective.loss(policy, SAMPLES)
    sides = [rewards_by_hand(policy, base, side, 0.3) for side in (pairs.chosen, pairs.rejected)]
    margins = [chosen - rejected for chosen, rejected in zip(*sides, strict=True)]
    assert max(map(abs, margins)) > 0.1
    expected = sum(
        (1 - smoothing) * math.log1p(math.exp(-m)) + smoothing * math.log1p(math.exp(m)) for m in margins
    )
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert metrics["rewards/margins"] == pytest.approx(sum(margins), rel=1e-3, abs=1e-4)
    assert metrics["rewards/accuracies"] == sum(m > 0 for m in margins)
    assert metrics["rewards/chosen"] - metrics["rewards/rejected"] == pytest.approx(
        metrics["rewards/margins"], rel=1e-4
    )
    assert metrics["rewards/chosen"] == pytest.approx(sum(sides[0]), rel=1e-3, abs=1e-4)


def test_a_frozen_reference_gives_the_same_as_the_base_below_the_adapter(policy, base, pairs):
    below = DpoObjective(pairs, 0, DpoSpec()).loss(policy, SAMPLES)
    beside = DpoObjective(pairs, 0, DpoSpec(), base).loss(policy, SAMPLES)
    assert below[0].item() == pytest.approx(beside[0].item(), rel=1e-5)


def test_a_policy_that_is_its_reference_loses_log_two_a_pair(tiny_dir, pairs):
    fresh = attach_lora(load_base(tiny_dir), LORA, 0)
    loss, metrics = DpoObjective(pairs, 0, DpoSpec()).loss(fresh, SAMPLES)
    assert loss.item() == pytest.approx(len(SAMPLES) * math.log(2), rel=1e-6)
    assert metrics == {
        "rewards/chosen": 0,
        "rewards/rejected": 0,
        "rewards/accuracies": 0,
        "rewards/margins": 0,
    }


@pytest.mark.parametrize("pad_id", [0, 7])
def test_how_pairs_are_batched_and_padded_changes_nothing(policy, pairs, pad_id):
    objective = DpoObjective(pairs, pad_id, DpoSpec())
    with torch.no_grad():
        whole = objective.loss(policy, SAMPLES)[0].item()
        parts = sum(DpoObjective(pairs, 0, DpoSpec()).loss(policy, [i])[0].item() for i in SAMPLES)
    assert whole == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize("padded", [True, False])
def test_answer_log_probs_are_the_negative_of_the_loss_on_answers(base, pairs, padded):
    batch = collate(pairs.chosen, SAMPLES if padded else [0], 0)
    found = answer_log_probs(base, batch)
    assert found.shape == (len(batch.input_ids),)
    assert -found.sum().item() == pytest.approx(summed_loss(base, batch).item(), rel=1e-5)


def test_the_reference_takes_no_draw_and_leaves_every_mode_as_it_was(tiny_dir, base, pairs):
    model = moved(attach_lora(load_base(tiny_dir), PeftSpec(r=4, lora_dropout=0.5), 0)).train()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    frozen = next(module for module in model.modules() if isinstance(module, torch.nn.Dropout))
    frozen.eval()
    model.lm_head.register_forward_pre_hook(lambda *_: None if model.training else (torch.rand(1), None)[1])
    modes = [module.training for module in model.modules()]
    objective = DpoObjective(pairs, 0, DpoSpec())
    torch.manual_seed(5)
    loss, _ = objective.loss(model, SAMPLES)
    after = torch.rand(1)
    assert [module.training for module in model.modules()] == modes

    torch.manual_seed(5)
    drawn = answer_log_probs(model, objective._batch(SAMPLES))
    assert torch.equal(torch.rand(1), after)
    with torch.no_grad():
        rewards = 0.1 * (drawn - answer_log_probs(base, objective._batch(SAMPLES)))
    chosen, rejected = rewards.chunk(2)
    assert loss.item() == pytest.approx(torch.log1p(torch.exp(rejected - chosen)).sum().item(), rel=1e-4)
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if "lora_" in name)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_a_few_steps_widen_the_margin_and_leave_the_reference_alone(tiny_dir, pairs, full, bf16):
    model = load_base(tiny_dir) if full else attach_lora(load_base(tiny_dir), LORA, 0)
    reference = load_base(tiny_dir).eval().requires_grad_(False) if full else None
    objective = DpoObjective(pairs, 0, DpoSpec(), reference)
    optimizer = torch.optim.AdamW(trainable(model.train()), lr=1e-3 if full else 5e-3)
    every, found = range(len(pairs)), []
    for _ in range(8):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss, metrics = objective.loss(model, every)
        (loss / objective.weight(every)).backward()
        assert all(parameter.grad is not None for parameter in trainable(model))
        optimizer.step()
        found.append((loss.item(), metrics["rewards/margins"], metrics["rewards/accuracies"]))
    assert found[-1][0] < 0.8 * found[0][0]
    assert found[-1][1] > 0.3 * len(pairs)
    assert found[-1][2] > 0.75 * len(pairs)


def test_what_a_step_is_divided_by_and_how_much_it_reads(pairs):
    objective = DpoObjective(pairs, 0, DpoSpec())
    assert objective.weight(SAMPLES) == 4
    assert objective.tokens(SAMPLES) == pairs.chosen.lengths(SAMPLES) + pairs.rejected.lengths(SAMPLES)


def test_sft_is_the_cross_entropy_over_answer_tokens(base, data_file, tiny_dir):
    packed = load_packed(str(data_file), tiny_dir, max_length=512)
    objective = SftObjective(packed, 0)
    loss, metrics = objective.loss(base, SAMPLES)
    by_hand = -sum(log_prob_by_hand(base, packed, index) for index in SAMPLES)
    assert loss.item() == pytest.approx(by_hand, rel=1e-4)
    assert metrics == {}
    assert objective.weight(SAMPLES) == sum(len(answer) + 1 for answer in ("yes", "no", "yes", "no"))
    assert objective.tokens(SAMPLES) == packed.lengths(SAMPLES)


def test_the_dataset_and_the_model_choose_the_objective(spec, base, policy, pairs, data_file, tiny_dir):
    packed = load_packed(str(data_file), tiny_dir, max_length=512)
    assert make_objective(spec, packed, policy) == SftObjective(packed, base.config.pad_token_id)
    dpo = spec.model_copy(update={"method": Method.DPO, "dpo": DpoSpec(beta=0.5)})
    made = make_objective(dpo, pairs, policy)
    assert (made.spec.beta, made.reference) == (0.5, None)
    assert make_objective(dpo, pairs, base, base).reference is base
    with pytest.raises(ConfigError, match="frozen copy"):
        make_objective(dpo, pairs, base)

import json
import threading
import time

import pytest
import torch
from safetensors.torch import load as load_tensors

from cluster.errors import ConflictError
from train_jobs import optimizers, state
from train_jobs.dataset import load_packed
from train_jobs.layout import Whole
from train_jobs.model import build, collate, load_base, summed_loss, trainable
from train_jobs.spec import Optimizer, PeftSpec, QuantizationSpec
from train_jobs.weights import ADAPTER_FILES, MODEL_FILES, WEIGHTS

CASES = {
    "lora": {},
    "lora-8bit": {"optim": Optimizer.ADAMW_8BIT, "peft": PeftSpec(r=64)},
    "qlora": {"quantization": QuantizationSpec(load_in_4bit=True)},
    "full": {"peft": None},
    "full-8bit": {"peft": None, "optim": Optimizer.ADAMW_8BIT},
    "full-sgd": {"peft": None, "optim": Optimizer.SGD},
}
ALL = pytest.mark.parametrize("case", CASES)
KNOWN = {"data_fingerprint": "d" * 64, "base_sha256": "b" * 64}


class Trainer:
    """A model and its optimizer, and steps over the same data for everyone."""

    def __init__(self, spec, directory, data_file, base_ref="tiny:v1", **updates):
        self.spec = spec.model_copy(update=updates)
        self.model = build(self.spec, directory, base_ref)
        self.optimizer = optimizers.make_optimizer(self.spec, trainable(self.model))
        self.layout = Whole(self.model, self.optimizer)
        self.packed = load_packed(str(data_file), directory, max_length=512)

    def train(self, first, last):
        found = []
        self.model.train()
        for step in range(first, last + 1):
            torch.manual_seed(step)
            self.optimizer.zero_grad()
            loss = summed_loss(self.model, collate(self.packed, [step, step + 7], pad_id=2))
            loss.backward()
            self.optimizer.step()
            found.append(loss.item())
        return found

    def files(self, step=3):
        with state.Snapshots(self.layout).take() as snapshot:
            files = state.encode(snapshot, position(step), [state.rng()])
            return {name: bytes(data) for name, data in files.items()}

    def restore(self, files, **changes):
        return state.restore(files, self.layout, **(KNOWN | changes))


def tensors(trainer):
    return [*trainer.layout.weights().values(), *trainer.layout.state().values()]


def address(snapshot, name=WEIGHTS):
    return torch.frombuffer(snapshot.files()[name], dtype=torch.uint8).data_ptr()


def position(step=3):
    return state.Position(
        step=step, samples_seen=2 * step, seed=42, learning_rate=1e-3, spec_sha256="s" * 64, **KNOWN
    )


@pytest.fixture
def trainer(spec, tiny_dir, data_file):
    return lambda directory=tiny_dir, **updates: Trainer(spec, directory, data_file, **updates)


@ALL
def test_a_restored_run_goes_on_with_the_same_losses_bit_for_bit(trainer, case):
    ours = trainer(**CASES[case])
    ours.train(1, 3)
    files = ours.files()
    theirs = trainer(**CASES[case], seed=7)
    theirs.train(11, 12)
    assert theirs.restore(files) == position()
    assert theirs.train(4, 7) == ours.train(4, 7)
    assert all(torch.equal(a, b) for a, b in zip(trainable(ours.model), trainable(theirs.model), strict=True))


@ALL
def test_a_peer_that_takes_the_tensors_over_goes_on_with_the_same_losses(trainer, case):
    ours = trainer(**CASES[case])
    ours.train(1, 3)
    newcomer = trainer(**CASES[case], seed=7)
    mine, its = (tensors(t) for t in (ours, newcomer))
    assert len(mine) == len(its) > 0
    with torch.no_grad():
        for source, target in zip(mine, its, strict=True):
            assert (source.shape, source.dtype) == (target.shape, target.dtype)
            target.copy_(source)
    optimizers.set_scalars(newcomer.optimizer, optimizers.scalars(ours.optimizer))
    assert newcomer.train(4, 7) == ours.train(4, 7)


def test_every_trained_weight_is_among_the_tensors(trainer):
    for case in CASES.values():
        made = trainer(**case)
        storages = {tensor.data_ptr() for tensor in tensors(made)}
        assert {parameter.data_ptr() for parameter in trainable(made.model)} <= storages


def test_an_adapter_is_in_pefts_format(trainer, tiny_dir, tmp_path):
    from peft import PeftModel

    ours = trainer()
    ours.train(1, 3)
    files = ours.files()
    for name in ADAPTER_FILES:
        (tmp_path / name).write_bytes(files[name])
    loaded = PeftModel.from_pretrained(load_base(tiny_dir), tmp_path).eval()
    assert loaded.peft_config["default"].base_model_name_or_path == "tiny:v1"
    batch = collate(ours.packed, [1, 2], pad_id=2)
    with torch.no_grad():
        assert summed_loss(loaded, batch).item() == summed_loss(ours.model.eval(), batch).item()


def test_a_fully_trained_model_loads_with_transformers(trainer, tmp_path):
    ours = trainer(peft=None)
    ours.train(1, 3)
    files = ours.files()
    for name in MODEL_FILES:
        (tmp_path / name).write_bytes(files[name])
    batch = collate(ours.packed, [1, 2], pad_id=2)
    with torch.no_grad():
        expected = summed_loss(ours.model.eval(), batch).item()
        assert summed_loss(load_base(tmp_path).eval(), batch).item() == expected


def test_tied_weights_are_stored_once_under_transformers_names_and_stay_tied(trainer, tiny_dir, tmp_path):
    tied = load_base(tiny_dir)
    tied.config.tie_word_embeddings = True
    tied.tie_weights()
    tied.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes((tiny_dir / name).read_bytes())
    ours = trainer(tmp_path, peft=None)
    ours.train(1, 3)
    files = ours.files()
    saved = load_tensors((tmp_path / "model.safetensors").read_bytes())
    assert load_tensors(files["model.safetensors"]).keys() == saved.keys()
    assert "lm_head.weight" not in saved
    theirs = trainer(tmp_path, peft=None)
    theirs.restore(files)
    assert theirs.model.lm_head.weight is theirs.model.model.embed_tokens.weight
    assert theirs.train(4, 6) == ours.train(4, 6)


@ALL
def test_a_snapshot_is_of_its_moment_and_the_next_does_not_touch_it(trainer, case):
    ours = trainer(**CASES[case])
    ours.train(1, 1)
    snapshots = state.Snapshots(ours.layout)
    first = snapshots.take()
    files = state.encode(first, position(1), [])
    then = {name: bytes(data) for name, data in files.items()}
    ours.train(2, 2)
    with snapshots.take() as second:
        later = state.encode(second, position(2), [])
        assert {name: bytes(data) for name, data in files.items()} == then
        weights = next(name for name in files if name.endswith("model.safetensors"))
        assert bytes(later[weights]) != then[weights]
    first.release()


def test_a_third_snapshot_waits_until_one_is_released_and_memory_is_used_again(trainer):
    ours = trainer()
    snapshots = state.Snapshots(ours.layout)
    first, second = snapshots.take(), snapshots.take()
    addresses = [address(snapshot) for snapshot in (first, second)]
    assert len(set(addresses)) == 2
    threading.Timer(0.3, first.release).start()
    began = time.monotonic()
    third = snapshots.take()
    assert time.monotonic() - began > 0.2
    assert address(third) == addresses[0]
    with pytest.raises(ValueError, match="released"):
        first.files()


def test_memory_made_ready_is_what_the_first_snapshot_uses(trainer):
    ours = trainer()
    snapshots = state.Snapshots(ours.layout)
    snapshots.prepare()
    snapshots.prepare()
    first, second = snapshots.take(), snapshots.take()
    assert address(first) != address(second)


def test_big_files_are_views_and_no_copies(trainer):
    ours = trainer(peft=None)
    with state.Snapshots(ours.layout).take() as snapshot:
        files = state.encode(snapshot, position(), [])
        for name in ("model.safetensors", "optimizer.safetensors"):
            assert isinstance(files[name], memoryview)
            kept = torch.frombuffer(files[name], dtype=torch.uint8)
            assert kept.data_ptr() == address(snapshot, name)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"data_fingerprint": "x" * 64}, "train.data_changed"),
        ({"base_sha256": "x" * 64}, "train.base_changed"),
    ],
)
def test_changed_data_and_a_changed_base_are_refused_before_anything_moves(trainer, changes, code):
    files = trainer().files()
    theirs = trainer()
    theirs.train(1, 2)
    before = [tensor.clone() for tensor in tensors(theirs)]
    with pytest.raises(ConflictError, match="xxxxxxxxxxxx") as caught:
        theirs.restore(files, **changes)
    assert caught.value.code == code
    after = tensors(theirs)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("saved", "own", "words"),
    [
        ({}, {"base_ref": "tiny:v2"}, "`tiny:v1`.*`tiny:v2`"),
        (
            {},
            {"peft": PeftSpec(r=8)},
            r"layers\.0.*q_proj\.lora_A.*\[4, 64\] there.*\[8, 64\] here",
        ),
        (
            {"peft": PeftSpec(r=4, target_modules=("q_proj",))},
            {},
            r"layers\.0.*k_proj.* missing there",
        ),
        ({}, {"peft": PeftSpec(r=4, target_modules=("v_proj",))}, r"missing here"),
        ({"peft": None}, {}, "adapter_model.safetensors"),
    ],
)
def test_an_adapter_of_another_base_or_shape_is_refused(trainer, saved, own, words):
    files = trainer(**saved).files()
    theirs = trainer(**own)
    with pytest.raises(ConflictError, match=words) as caught:
        theirs.restore(files)
    assert caught.value.code == "train.adapter_mismatch"


def test_the_state_of_another_optimizer_is_refused_before_anything_moves(trainer):
    files = trainer(peft=None, optim=Optimizer.ADAMW_8BIT).files()
    theirs = trainer(peft=None, seed=5)
    before = [parameter.detach().clone() for parameter in trainable(theirs.model)]
    with pytest.raises(ConflictError, match=r"0\.exp_avg") as caught:
        theirs.restore(files)
    assert caught.value.code == "train.optimizer_mismatch"
    assert all(torch.equal(a, b) for a, b in zip(before, trainable(theirs.model), strict=True))


def test_restoring_leaves_random_state_mode_and_frozen_weights_alone(trainer):
    files = trainer().files()
    theirs = trainer(seed=9)
    theirs.model.eval()
    frozen = {n: p.clone() for n, p in theirs.model.named_parameters() if not p.requires_grad}
    torch.manual_seed(1)
    before = torch.get_rng_state()
    theirs.restore(files)
    assert torch.equal(torch.get_rng_state(), before)
    assert not theirs.model.training
    assert all(torch.equal(p, theirs.model.get_parameter(n)) for n, p in frozen.items())
    assert theirs.optimizer.param_groups[0]["lr"] == theirs.spec.learning_rate


def test_random_states_come_back_for_the_ranks_that_were_there(trainer):
    import random

    import numpy as np

    def draws():
        return torch.rand(1).item(), random.random(), float(np.random.rand())

    files = trainer().files()
    expected = draws()
    state.restore_rng(files, 0)
    assert draws() == expected
    state.restore_rng(files, 1)
    assert draws() != expected


def test_files_say_how_far_the_run_is(trainer):
    files = trainer().files(step=5)
    assert json.loads(files["trainer_state.json"])["step"] == 5
    assert "tiny:v1" in json.loads(files["adapter_config.json"])["base_model_name_or_path"]

"""FSDP2 between real processes: what one process learns, bit for bit again, and members that leave."""

import json
import multiprocessing as mp
import os
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load as load_tensors

from train_jobs import model as models
from train_jobs import optimizers, state
from train_jobs.dataset import load_dataset
from train_jobs.evaluating import Evaluation, evaluate_together
from train_jobs.formation.group import Group, GroupLostError
from train_jobs.layout import Whole
from train_jobs.loop import Loop, Wishes
from train_jobs.objectives import make_objective
from train_jobs.parallel import ParallelSpec, Strategy
from train_jobs.spec import DataSpec, Method, PeftSpec, TrainSpec

SIZE, STEPS, SAVED = 2, 4, 2
CALM = PeftSpec(r=3, lora_alpha=6)
CASES = {
    "full": {"peft": None, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "lora": {"peft": CALM},
    "checkpointing": {"peft": CALM, "gradient_checkpointing": True},
    "dpo": {"peft": CALM, "method": Method.DPO, "learning_rate": 1e-2},
}
KNOWN = {"data_fingerprint": "d", "base_sha256": "b"}
# Five rows in microbatches of two: one member has a microbatch less than the other.
EVALUATED = 5


def quiet(*_):
    """No marks."""


class Member:
    """One worker with everything that it takes to train."""

    def __init__(self, spec, directory, group):
        self.spec, self.group = spec, group
        self.dataset = load_dataset(spec, directory, spec.data.train)
        self.model = models.build(spec, directory, "tiny:v1")
        self.layout = self._layout()
        optimizers.fill_state(self.layout.optimizer)
        self.objective = make_objective(spec, self.dataset, self.model)
        self.loop = Loop(spec, self.layout, self.objective, len(self.dataset))
        self.layout.join(group, nullcontext)

    def _layout(self):
        if self.group.size == 1:
            return Whole(self.model, optimizers.make_optimizer(self.spec, models.trainable(self.model)))
        from train_jobs.sharding import Sharded

        return Sharded(self.spec, self.model, self.group.rank, self.group.size)

    def train(self, first, last):
        """Facts of the steps."""
        found = [self.loop.run_step(s, self.group, Wishes(), quiet) for s in range(first, last + 1)]
        return [(r.step, r.samples, r.loss, r.grad_norm, r.learning_rate, r.metrics) for r in found]

    def files(self, step):
        """A checkpoint's files on rank 0."""
        if self.group.rank != 0:
            self.layout.hand_over()
            return None
        with state.Snapshots(self.layout).take() as snapshot:
            position = state.Position(
                step=step, samples_seen=0, seed=1, learning_rate=0.1, spec_sha256="s", **KNOWN
            )
            return {n: bytes(data) for n, data in state.encode(snapshot, position, [state.rng()]).items()}

    def restore(self, files):
        """Everybody takes over what rank 0 has read."""
        if files is not None:
            state.restore(files, self.layout, **KNOWN)
        self.layout.spread(self.group, 0)
        self.loop.forget()

    def evaluate(self):
        todo = Evaluation(
            self.spec, self.model, self.objective, EVALUATED, rows=2, in_step=self.layout.is_sharded
        )
        return evaluate_together(todo, self.group, lambda: None, nullcontext)


def _form(port, generation, rank):
    torch.set_num_threads(1)
    return Group.form(("127.0.0.1", port), generation, rank, SIZE, lambda: False)


def _undisturbed(rank, port, specs, directory, told):
    """Each case trained, evaluated and saved; then again from its checkpoint."""
    group = _form(port, 1, rank)
    for case, spec in specs.items():
        first = Member(spec, directory, group)
        facts = first.train(1, SAVED)
        files = first.files(SAVED)
        evaluation = first.evaluate()
        facts += first.train(SAVED + 1, STEPS)
        last = first.files(STEPS)
        held = sum(p.numel() for p in first.layout.optimizer.param_groups[0]["params"])
        second = Member(spec, directory, group)
        second.train(1, 1)
        second.restore(files)
        again = second.train(SAVED + 1, STEPS)
        last_again = second.files(STEPS)
        if rank == 0:
            told.put((case, facts, evaluation, files, last, again, last_again, held))
    told.close()
    told.join_thread()


def _survivor(port, spec, directory, told, lost):
    """Loses its peer in the midst of a step, and goes on from the checkpoint with another."""
    member = Member(spec, directory, _form(port, 2, 0))
    facts = member.train(1, 1)
    files = member.files(1)
    try:
        member.train(2, 2)
    except GroupLostError as error:
        facts.append(str(error))
    lost.set()
    member.group = _form(port, 3, 0)
    member.layout.join(member.group, nullcontext)
    member.restore(files)
    told.put(facts + member.train(2, STEPS))
    told.close()
    told.join_thread()


def _victim(port, spec, directory):
    """Ends in the backward pass of its second step, between the gradients of two layers."""
    member = Member(spec, directory, _form(port, 2, 1))
    member.train(1, 1)
    member.files(1)

    def watch(_module, _given, output):
        tensor = output[0] if isinstance(output, tuple) else output
        tensor.register_hook(lambda _gradient: os._exit(9))

    member.model.model.layers[0].register_forward_hook(watch)
    member.train(2, 2)


def _newcomer(port, spec, directory, lost):
    lost.wait(120)
    member = Member(spec, directory, _form(port, 3, 1))
    member.restore(None)
    member.train(2, STEPS)


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sharded")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Is {n} even?{' Really?' * (n % 5)}"},
                {"role": "assistant", "content": "no" if n % 2 else "yes"},
            ]
        }
        for n in range(32)
    ]
    pairs = [{"prompt": f"Is {n} even?", "chosen": "yes it is", "rejected": "no"} for n in range(0, 64, 2)]
    for name, content in (("sft", rows), ("dpo", pairs)):
        (directory / f"{name}.jsonl").write_text("\n".join(map(json.dumps, content)))

    def spec(case):
        changes = {"per_device_train_batch_size": 4, **CASES[case]}
        return TrainSpec(
            run="sharded",
            model="tiny:v1",
            data=DataSpec(train=str(directory / f"{changes.get('method', Method.SFT)}.jsonl")),
            max_steps=10,
            max_grad_norm=0.5,
            num_workers=SIZE,
            parallel=ParallelSpec(strategy=Strategy.FSDP),
            **{"learning_rate": 1e-3, **changes},
        )

    return {case: spec(case) for case in CASES}


@pytest.fixture(scope="module")
def started():
    """Start processes around one meeting place; all have ended afterwards."""
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    children = []

    def start(act, *arguments, rank=None):
        first = () if rank is None else (rank,)
        child = mp.get_context("spawn").Process(target=act, args=(*first, meeting.port, *arguments))
        child.start()
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.join()


@pytest.fixture(scope="module")
def sharded(specs, tiny_dir, started):
    """What the members of each case told."""
    told = mp.get_context("spawn").Queue()
    for rank in range(SIZE):
        started(_undisturbed, specs, tiny_dir, told, rank=rank)
    found = [told.get(timeout=90) for _ in specs]
    return {case: found for case, *found in found}


@pytest.fixture(scope="module")
def alone(specs, tiny_dir):
    """The same steps of one process that has everything."""

    found = {}
    for case, spec in specs.items():
        member = Member(spec, tiny_dir, Group())
        facts = member.train(1, SAVED)
        files = member.files(SAVED)
        evaluation = member.evaluate()
        found[case] = (facts + member.train(SAVED + 1, STEPS), evaluation, files)
    return found


EACH = pytest.mark.parametrize("case", CASES)


@EACH
def test_shards_learn_what_one_process_learns(sharded, alone, case):
    ours, theirs = sharded[case][0], alone[case][0]
    assert [fact[:2] for fact in ours] == [fact[:2] for fact in theirs]
    for mine, its in zip(ours, theirs, strict=True):
        assert mine[2] == pytest.approx(its[2], rel=1e-5)
        assert mine[3] == pytest.approx(its[3], rel=1e-4)
        assert mine[5] == pytest.approx(its[5], rel=1e-3, abs=1e-5)
    # It did learn something: else equal losses would show nothing.
    assert len({fact[2] for fact in ours}) == STEPS


@EACH
def test_what_goes_on_from_a_checkpoint_is_the_same_bit_for_bit(sharded, case):
    facts, _, _, last, again, last_again, _ = sharded[case]
    assert again == facts[SAVED:]
    for name in (*(n for n in last if n.endswith(".safetensors")), "optimizer.json"):
        assert last_again[name] == last[name]


@EACH
def test_a_checkpoint_has_the_names_and_shapes_of_a_whole_model_s(sharded, alone, case):
    ours, theirs = sharded[case][2], alone[case][2]
    assert ours.keys() == theirs.keys()
    for name in ours:
        if name.endswith("config.json"):
            assert ours[name] == theirs[name]
        if not name.endswith(".safetensors"):
            continue
        mine, its = load_tensors(ours[name]), load_tensors(theirs[name])
        assert {n: (t.shape, t.dtype) for n, t in mine.items()} == {
            n: (t.shape, t.dtype) for n, t in its.items()
        }
        for key in mine:
            # Where hardly any gradient is, Adam's direction is one of rounding.
            torch.testing.assert_close(mine[key], its[key], rtol=1e-2, atol=2e-4)


@EACH
def test_an_evaluation_is_that_of_one_process(sharded, alone, case):
    assert sharded[case][1] == pytest.approx(alone[case][1], rel=1e-4, abs=1e-6)


def test_a_member_holds_its_share_of_what_is_trained(sharded, specs, tiny_dir):
    model = models.build(specs["full"], tiny_dir, "tiny:v1")
    whole = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)
    assert whole / SIZE <= sharded["full"][6] < whole / SIZE * 1.02


def test_a_member_that_leaves_ends_the_step_and_the_next_formation_goes_on_the_same(
    sharded, specs, tiny_dir, started
):
    context = mp.get_context("spawn")
    told, lost, spec = context.Queue(), context.Event(), specs["full"]
    started(_survivor, spec, tiny_dir, told, lost)
    victim = started(_victim, spec, tiny_dir)
    started(_newcomer, spec, tiny_dir, lost)
    first, error, *rest = told.get(timeout=90)
    victim.join(10)
    assert victim.exitcode == 9
    assert isinstance(error, str)
    assert [first, *rest] == sharded["full"][0]

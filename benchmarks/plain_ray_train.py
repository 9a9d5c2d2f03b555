"""The other side of the training benchmarks: what one writes with PyTorch and Ray Train alone.

`PlainLoop` is a DDP step over the same model, batches and loss as Linnet's. `run_plain` puts it into
Ray Train as its documentation has it: `prepare_model`, a checkpoint with `train.report`, FailureConfig.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from train_jobs.dataset import PackedDataset
from train_jobs.model import Batch, build, collate, summed_loss, trainable
from train_jobs.optimizers import make_optimizer
from train_jobs.sampling import slot_microbatches, step_samples
from train_jobs.schedule import learning_rate
from train_jobs.spec import TrainSpec

MAX_FAILURES = 3
_POLL_S = 0.01
_STATE = "state.pt"


@dataclass(frozen=True)
class StepMark:
    """One rank has done a step. `at` in unix seconds; `attempt` counts the lives of the rank from 1."""

    step: int
    at: float
    rank: int
    pid: int
    attempt: int


class AnswerLoss(torch.nn.Module):
    """A model that returns the summed loss of a batch, so that DDP sees one forward pass."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> torch.Tensor:
        """Cross entropy summed over answer tokens, a scalar."""
        return summed_loss(self.model, batch)


class PlainLoop:
    """One rank of `spec.slots`; `module` is an AnswerLoss wrapped by DistributedDataParallel."""

    def __init__(self, module: Any, dataset: PackedDataset, spec: TrainSpec, rank: int) -> None:
        self.module, self.dataset, self.spec, self.rank = module, dataset, spec, rank
        self.parameters = trainable(module)
        self.optimizer = make_optimizer(spec, self.parameters)

    def step(self, step: int) -> float:
        """Train `step`, counted from 1; returns this rank's part of the loss."""
        spec = self.spec
        samples = step_samples(
            spec.seed, step, dataset_size=len(self.dataset), batch_size=spec.global_batch_size
        )
        # DDP takes the mean over ranks; the loss is one mean over the answer tokens of all.
        scale = spec.slots / self.dataset.answer_tokens(samples)
        rows = spec.per_device_train_batch_size
        microbatches = slot_microbatches(samples, self.rank, spec.slots, rows)
        total = 0.0
        for number, microbatch in enumerate(microbatches, start=1):
            is_last = number == len(microbatches)
            with nullcontext() if is_last or spec.slots == 1 else self.module.no_sync():
                loss = self.module(collate(self.dataset, microbatch, pad_id=0)) * scale
                loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.parameters, spec.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(spec, step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total / spec.slots

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint holds."""
        weights = [parameter.detach() for parameter in self.parameters]
        return {"step": step, "weights": weights, "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> int:
        """Take a checkpoint's state; returns its step."""
        with torch.no_grad():
            for parameter, weight in zip(self.parameters, state["weights"], strict=True):
                parameter.copy_(weight)
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])


def run_plain(
    model_dir: Path,
    packed_dataset: PackedDataset,
    spec: TrainSpec,
    workdir: Path,
    on_step: Callable[[StepMark], None],
) -> None:
    """Train `spec` with plain Ray Train V2, its health check at the default interval.

    Ray has to be running, and RAY_TRAIN_V2_ENABLED=1 set before it was imported. `on_step` is called in
    this process for every step of every rank, within about 10 ms: it may kill the pid that it is told.
    All marks also stay in `workdir/steps.jsonl`. Raises what `TorchTrainer.fit` raises.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    workdir.mkdir(parents=True, exist_ok=True)
    journal = workdir / "steps.jsonl"
    journal.touch()
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={
            "model_dir": str(model_dir),
            "dataset": ray.put(packed_dataset),
            "spec": spec,
            "journal": str(journal),
        },
        scaling_config=ScalingConfig(
            num_workers=spec.slots, resources_per_worker={"CPU": spec.threads_per_worker}
        ),
        run_config=RunConfig(
            name=spec.run,
            storage_path=str(workdir),
            checkpoint_config=CheckpointConfig(num_to_keep=spec.save_total_limit),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    with _followed(journal, on_step):
        trainer.fit()


def read_marks(workdir: Path) -> list[StepMark]:
    """All marks of a run, in order of writing."""
    return [StepMark(**json.loads(line)) for line in (workdir / "steps.jsonl").read_text().splitlines()]


def next_new_step_at(marks: list[StepMark], killed_at: float) -> float:
    """When rank 0 first did a step, after `killed_at`, that it had not done before."""
    own = [mark for mark in marks if mark.rank == 0]
    furthest = max((mark.step for mark in own if mark.at <= killed_at), default=0)
    return min(mark.at for mark in own if mark.at > killed_at and mark.step > furthest)


def _train_loop(config: dict[str, Any]) -> None:
    import ray
    from ray import train
    from ray.train.torch import prepare_model

    spec: TrainSpec = config["spec"]
    torch.set_num_threads(spec.threads_per_worker)
    rank = train.get_context().get_world_rank()
    model = build(spec, Path(config["model_dir"]), spec.model)
    model.train()
    loop = PlainLoop(prepare_model(AnswerLoss(model)), ray.get(config["dataset"]), spec, rank)
    done = 0
    if checkpoint := train.get_checkpoint():
        with checkpoint.as_directory() as directory:
            done = loop.load(torch.load(Path(directory) / _STATE, weights_only=True))
    mark = _marker(Path(config["journal"]), rank)
    for step in range(done + 1, spec.max_steps + 1):
        loss = loop.step(step)
        mark(step)
        if step % spec.save_steps == 0:
            _report(loop, step, loss, rank)


def _report(loop: PlainLoop, step: int, loss: float, rank: int) -> None:
    from ray import train

    with tempfile.TemporaryDirectory() as directory:
        checkpoint = None
        if rank == 0:
            torch.save(loop.state(step), Path(directory) / _STATE)
            checkpoint = train.Checkpoint.from_directory(directory)
        train.report({"loss": loss, "step": step}, checkpoint=checkpoint)


def _marker(journal: Path, rank: int) -> Callable[[int], None]:
    earlier = {mark.pid for mark in read_marks(journal.parent) if mark.rank == rank}
    attempt = len(earlier) + 1

    def mark(step: int) -> None:
        line = json.dumps(asdict(StepMark(step, time.time(), rank, os.getpid(), attempt)))
        with journal.open("a") as file:
            file.write(line + "\n")

    return mark


@contextmanager
def _followed(journal: Path, on_step: Callable[[StepMark], None]) -> Iterator[None]:
    """Call `on_step` for every line that is added meanwhile."""
    over = threading.Event()

    def follow() -> None:
        with journal.open() as file:
            pending = ""
            while True:
                ending = over.is_set()
                pending += file.read()
                *lines, pending = pending.split("\n")
                for line in lines:
                    on_step(StepMark(**json.loads(line)))
                if ending:
                    return
                time.sleep(_POLL_S)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()

"""What exactness costs: tokens a second of a Linnet run, of plain Ray Train and of a bare DDP loop, in turn.

All train the same model on the same batches with the same number of processes and threads. A step is
timed from the end of the one before to its own end, journals and all. Each side has the machine to
itself: the Ray of one ends before the next begins. Plain Ray Train shows what of the difference is Ray's.

    python benchmarks/train_throughput.py [--json] [--quick] [--full] [--model DIR]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import plain_ray_train
import torch
import torch.distributed as dist
from plain_ray_train import AnswerLoss, PlainLoop
from sides import BASE, plain_ray, run_apart

from cluster.config import Settings
from cluster.manifest import VersionKind
from cluster.registry import ModelStore
from cluster.storage import Storage
from train_jobs.dataset import PackedDataset, load_packed
from train_jobs.model import build
from train_jobs.run_files import RunFiles
from train_jobs.sampling import step_samples
from train_jobs.spec import DataSpec, PeftSpec, TrainSpec

SKIPPED_STEPS = 3
ASK = 0.97
_ROWS = 512
_WORDS = ("river", "stone", "light", "winter", "garden", "paper", "seven", "bright", "window", "morning")
_DDP_TIMEOUT = timedelta(minutes=5)


def run_bare_ddp(model_dir: Path, dataset: PackedDataset, spec: TrainSpec, steps: int) -> list[float]:
    """Train `steps` steps in `spec.slots` processes over gloo; returns the seconds of each."""
    with tempfile.TemporaryDirectory() as directory:
        job = _BareJob(Path(directory), model_dir, dataset, spec, steps)
        torch.multiprocessing.spawn(_bare_rank, (job,), nprocs=spec.slots)
        return [float(value) for value in json.loads((Path(directory) / "seconds.json").read_text())]


@dataclass(frozen=True)
class _BareJob:
    directory: Path
    model_dir: Path
    dataset: PackedDataset
    spec: TrainSpec
    steps: int


def _bare_rank(rank: int, job: _BareJob) -> None:
    spec = job.spec
    torch.set_num_threads(spec.threads_per_worker)
    store = dist.FileStore(str(job.directory / "store"), spec.slots)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=spec.slots, timeout=_DDP_TIMEOUT)
    model = build(spec, job.model_dir, spec.model)
    model.train()
    module = torch.nn.parallel.DistributedDataParallel(AnswerLoss(model))
    loop = PlainLoop(module, job.dataset, spec, rank)
    ends = [time.perf_counter()]
    for step in range(1, job.steps + 1):
        loop.step(step)
        ends.append(time.perf_counter())
    if rank == 0:
        (job.directory / "seconds.json").write_text(json.dumps(_differences(ends)))
    dist.barrier()
    dist.destroy_process_group()


def run_linnet(spec: TrainSpec, settings: Settings) -> list[float]:
    """Train `spec` with Linnet's driver; returns the seconds of steps 2 and on."""
    run_apart(_linnet_driver, spec, settings)
    return _differences([record.at for record in RunFiles(Storage(settings.root), spec.run).read_steps()])


def _linnet_driver(spec: TrainSpec, settings: Settings) -> None:
    from train_jobs import driver

    driver.train(spec, settings)


def run_plain_ray(spec: TrainSpec, settings: Settings) -> list[float]:
    """Train `spec` with plain Ray Train; returns the seconds of steps 2 and on."""
    with tempfile.TemporaryDirectory() as directory:
        run_apart(_plain_driver, spec, settings, Path(directory))
        marks = plain_ray_train.read_marks(Path(directory))
        return _differences([mark.at for mark in marks if mark.rank == 0])


def _plain_driver(spec: TrainSpec, settings: Settings, workdir: Path) -> None:
    plain_ray(spec, settings, workdir, _pass_by, spec.slots)


def _pass_by(_mark: plain_ray_train.StepMark) -> None:
    """The marks are read when the run is over."""


def tokens_per_second(spec: TrainSpec, dataset: PackedDataset, seconds: Sequence[float]) -> float:
    """Over the last steps of a run, the first few left out; `seconds` ends with that of the last step."""
    steps = range(SKIPPED_STEPS + 1, spec.max_steps + 1)
    size, batch = len(dataset), spec.global_batch_size
    tokens = sum(
        dataset.lengths(step_samples(spec.seed, step, dataset_size=size, batch_size=batch)) for step in steps
    )
    return tokens / sum(seconds[-len(steps) :])


def measure(spec: TrainSpec, settings: Settings, *, rounds: int) -> dict[str, float]:
    """All sides in turn, each round against its own; the medians of the rounds."""
    model_dir = ModelStore.open(settings).local_dir(BASE)
    dataset = load_packed(spec.data.train, model_dir, spec.max_length)
    linnet, plain, bare = [], [], []
    timed = spec.max_steps - SKIPPED_STEPS
    for number in range(rounds):
        named = spec.model_copy(update={"run": f"bench-{number}"})
        linnet.append(run_linnet(named, settings)[-timed:])
        plain.append(run_plain_ray(named, settings)[-timed:])
        bare.append(run_bare_ddp(model_dir, dataset, spec, spec.max_steps)[-timed:])
    ours, rays, theirs = (
        [tokens_per_second(spec, dataset, one) for one in side] for side in (linnet, plain, bare)
    )
    ratios = [own / other for own, other in zip(ours, theirs, strict=True)]
    return {
        "linnet_tokens_per_s": round(statistics.median(ours), 1),
        "bare_tokens_per_s": round(statistics.median(theirs), 1),
        "plain_ray_tokens_per_s": round(statistics.median(rays), 1),
        "plain_ray_ratio": round(statistics.median(r / b for r, b in zip(rays, theirs, strict=True)), 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_least": round(min(ratios), 3),
        "ratio_most": round(max(ratios), 3),
        "linnet_spread": _spread(linnet),
        "bare_spread": _spread(bare),
    }


def _spread(rounds: Sequence[Sequence[float]]) -> float:
    """How much longer the slowest round took than the quickest, as a share."""
    totals = [sum(seconds) for seconds in rounds]
    return round(max(totals) / min(totals) - 1, 3)


def make_model(directory: Path, *, hidden: int = 384, layers: int = 8) -> Path:
    """A random Llama of about 25 million parameters, with a byte-level tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.support.tiny_model import make_tiny_model

    make_tiny_model(directory)
    tiny = LlamaConfig.from_pretrained(directory, local_files_only=True)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=1024,
        bos_token_id=tiny.bos_token_id,
        eos_token_id=tiny.eos_token_id,
        pad_token_id=tiny.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def write_data(path: Path) -> Path:
    """Questions and answers of 10 to 20 words each."""
    draw = random.Random(0)

    def words() -> str:
        return " ".join(draw.choices(_WORDS, k=draw.randint(10, 20)))

    rows = [
        {"messages": [{"role": "user", "content": words()}, {"role": "assistant", "content": words()}]}
        for _ in range(_ROWS)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def run(model: Path | None, *, full: bool, steps: int, rounds: int) -> dict[str, float]:
    """Set up a home for the runs, measure, take it away."""
    with tempfile.TemporaryDirectory(prefix="linnet-bench-", ignore_cleanup_errors=True) as home:
        os.environ["LINNET_HOME"] = home
        settings = Settings.load()
        source = model or make_model(Path(home) / "source")
        ModelStore.open(settings).publish(source, BASE, kind=VersionKind.BASE, source_label="benchmark")
        spec = TrainSpec(
            run="bench",
            model=str(BASE),
            data=DataSpec(train=str(write_data(Path(home) / "data.jsonl"))),
            max_steps=steps,
            learning_rate=1e-4,
            per_device_train_batch_size=4,
            save_steps=steps,
            num_workers=2,
            peft=None if full else PeftSpec(r=8),
        )
        return measure(spec, settings, rounds=rounds)


def main() -> None:
    """Measure and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one short round each")
    parser.add_argument("--full", action="store_true", help="train all weights, not an adapter")
    parser.add_argument("--model", type=Path, help="directory of a real model in Hugging Face's form")
    arguments = parser.parse_args()
    steps, rounds = (10, 1) if arguments.quick else (40, 3)
    figures = run(arguments.model, full=arguments.full, steps=steps, rounds=rounds)
    met = figures["ratio"] >= ASK
    ask = {
        "what": "tokens/s against a bare DDP loop",
        "limit": f">= {ASK}",
        "value": figures["ratio"],
        "met": met,
    }
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if arguments.json:
        found: dict[str, Any] = {
            "name": "train_throughput",
            "machine": machine,
            "figures": figures,
            "asks": [ask],
        }
        print(json.dumps(found))
        return
    print(machine)
    for name, value in figures.items():
        print(f"  {name:<24}{value:>12,.3f}")
    print(f"  {'met   ' if met else 'MISSED'} {ask['what']}: {ask['value']} (ask {ask['limit']})")


def _differences(moments: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


if __name__ == "__main__":
    main()

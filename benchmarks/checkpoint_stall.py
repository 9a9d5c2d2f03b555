"""What a checkpoint each 10 steps costs a training run: written beside the steps, or in line.

As in a run with a worker a core, every other core trains the same beside it. One process takes real steps
in blocks of 10: plain ones, ones that begin with a checkpoint written in the background, and ones that
begin with a checkpoint written in line, in turn. `held` is the time in which no step runs (snapshot, and
waiting for the writer at the block's end) as a share of the block; `slowed` how much longer the 10 steps
took than the plain ones of the same round; `cost` both, as a share of the plain steps. Medians over the
rounds.

    python benchmarks/checkpoint_stall.py [--json] [--quick] [--model DIR] [--threads N] [--root DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

STEPS = 10
KINDS = ("plain", "async", "inline")
LIMITS = {"lora": 0.02, "full": 0.05}
RUN = "bench"


@dataclass(frozen=True)
class Block:
    """Seconds of one block: in which training was held, and of its steps together."""

    held_s: float
    steps_s: float


class Bench:
    """A model that trains on random tokens, and its checkpoints below `root`."""

    def __init__(self, model: Any, root: str, rows: int, length: int) -> None:
        import torch

        from cluster.storage import Storage
        from train_jobs.layout import Whole
        from train_jobs.model import trainable
        from train_jobs.optimizers import fill_state
        from train_jobs.run_files import RunFiles
        from train_jobs.state import Snapshots
        from train_jobs.writer import Writer

        self.model = model.train()
        self.parameters = trainable(model)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5)
        fill_state(self.optimizer)
        self.snapshots = Snapshots(Whole(model, self.optimizer))
        self.files = RunFiles(Storage(root), RUN)
        self.writer = Writer(lambda _committed, seconds: self.written_s.append(seconds))
        self.batch = torch.randint(0, model.config.vocab_size, (rows, length))
        self.step = 0
        self.written_s: list[float] = []
        self.snapshot_s: list[float] = []
        self.bytes = 0

    def train_step(self) -> None:
        """Forward, backward, clip, update."""
        import torch

        self.model(input_ids=self.batch, labels=self.batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def block(self, kind: str) -> Block:
        """A checkpoint as `kind` says, then `STEPS` steps, then what is left to wait for."""
        began = time.perf_counter()
        if kind != "plain":
            job = self._checkpoint()
            if kind == "inline":
                job()
            else:
                self.writer.submit(job)
        stepping = time.perf_counter()
        for _ in range(STEPS):
            self.train_step()
        waiting = time.perf_counter()
        self.writer.drain(600)
        ended = time.perf_counter()
        return Block(stepping - began + ended - waiting, waiting - stepping)

    def _checkpoint(self) -> Callable[[], Any]:
        from train_jobs import checkpoint, state

        began = time.perf_counter()
        snapshot, rng, step = self.snapshots.take(), [state.rng()], self.step
        self.snapshot_s.append(time.perf_counter() - began)
        hashes = dict.fromkeys(("data_fingerprint", "base_sha256", "spec_sha256"), "0" * 64)
        position = state.Position(step=step, samples_seen=step, seed=0, learning_rate=1e-5, **hashes)

        def job() -> checkpoint.Committed:
            with snapshot:
                contents = state.encode(snapshot, position, rng)
                done = checkpoint.commit(
                    self.files, contents, step=step, attempt=1, world_size=1, metrics={"loss": 1.0}
                )
            self.bytes = done.manifest.total_bytes
            for old in checkpoint.committed_steps(self.files)[:-1]:
                checkpoint.remove_step(self.files, old)
            return done

        return job


def measure(model: Any, rounds: int, rows: int, length: int, root: str) -> dict[str, float]:
    """All figures of one kind of training."""
    bench = Bench(model, root, rows, length)
    for _ in range(2):
        bench.train_step()
    bench.block("async")
    blocks: dict[str, list[Block]] = {kind: [] for kind in KINDS}
    for turn in range(rounds):
        for kind in (*KINDS[turn % 3 :], *KINDS[: turn % 3]):
            blocks[kind].append(bench.block(kind))
    figures = {
        "step_s": statistics.median(block.steps_s for block in blocks["plain"]) / STEPS,
        "checkpoint_mb": bench.bytes / 1e6,
        "snapshot_s": statistics.median(bench.snapshot_s),
        "written_in_background_s": statistics.median(bench.written_s),
    }
    for kind in KINDS[1:]:
        pairs = list(zip(blocks[kind], blocks["plain"], strict=True))
        figures |= {
            f"{kind}_held": statistics.median(b.held_s / (b.held_s + b.steps_s) for b, _ in pairs),
            f"{kind}_slowed": statistics.median(b.steps_s / plain.steps_s - 1 for b, plain in pairs),
            f"{kind}_cost": statistics.median(
                (b.held_s + b.steps_s) / plain.steps_s - 1 for b, plain in pairs
            ),
        }
    return figures | {"cost_ratio": figures["async_cost"] / figures["inline_cost"]}


def random_llama() -> Any:
    """A Llama of 30 million random parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Both kinds of training, one after the other."""
    import torch

    torch.set_num_threads(arguments.threads)
    rounds = 1 if arguments.quick else 5
    rows, length = shape_of(arguments)
    figures: dict[str, float] = {}
    for name in LIMITS:
        model = make_model(name, arguments)
        with tempfile.TemporaryDirectory(dir=arguments.root) as root, companions(name, arguments):
            found = measure(model, rounds, rows, length, root)
        figures |= {f"{name}_{key}": value for key, value in found.items()}
        del model
    return figures


def make_model(name: str, arguments: argparse.Namespace) -> Any:
    """What is trained: all weights, or an adapter."""
    from train_jobs.model import attach_lora, load_base
    from train_jobs.spec import PeftSpec

    model = load_base(Path(arguments.model)) if arguments.model else random_llama()
    return attach_lora(model, PeftSpec(r=16), seed=0) if name == "lora" else model


@contextlib.contextmanager
def companions(name: str, arguments: argparse.Namespace) -> Iterator[None]:
    """The other workers of a run, one for each core that the measured one leaves free."""
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=train_on, args=(name, arguments), daemon=True)
        for _ in range((os.cpu_count() or 1) // arguments.threads - 1)
    ]
    for other in others:
        other.start()
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.join()


def train_on(name: str, arguments: argparse.Namespace) -> None:
    """Take steps until the end."""
    import torch

    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(make_model(name, arguments), root, *shape_of(arguments))
        while True:
            bench.train_step()


def shape_of(arguments: argparse.Namespace) -> tuple[int, int]:
    """Rows and tokens of a batch."""
    return (2, 32) if arguments.quick else (8, 64)


def asks_of(figures: dict[str, float]) -> list[dict[str, Any]]:
    """What is asked of the figures, and whether it is met."""
    asks = []
    for name, limit in LIMITS.items():
        asks += [
            _ask(f"{name}: share of step time held", limit, figures[f"{name}_async_held"]),
            _ask(f"{name}: held and slowed together", limit, figures[f"{name}_async_cost"]),
            _ask(f"{name}: held and slowed, against in line", 0.2, figures[f"{name}_cost_ratio"]),
        ]
    return asks


def main() -> None:
    """Measure and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one round of small steps")
    parser.add_argument("--model", help="a Hugging Face directory (default: 30M random parameters)")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads, as `threads_per_worker`")
    parser.add_argument("--root", help="where the checkpoints are written (default: the temporary directory)")
    arguments = parser.parse_args()
    figures = run(arguments)
    asks = asks_of(figures)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if arguments.json:
        print(json.dumps({"name": "checkpoint_stall", "machine": machine, "figures": figures, "asks": asks}))
        return
    print(machine)
    for name, value in figures.items():
        print(f"  {name:<32}{value:>12,.4f}".rstrip("0").rstrip("."))
    for ask in asks:
        print(
            f"  {'met   ' if ask['met'] else 'MISSED'} {ask['what']}: {ask['value']:.4f} (ask {ask['limit']})"
        )


def _ask(what: str, limit: float, value: float) -> dict[str, Any]:
    return {"what": what, "limit": f"<= {limit}", "value": value, "met": value <= limit}


if __name__ == "__main__":
    main()

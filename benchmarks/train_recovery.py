"""What a lost worker costs: kill -9 of one of two, under plain Ray Train and under Linnet, in turn.

All sides train the same model on the same batches and save every 5 steps; once step 12 is done, rank 1 is
killed, in every other round rank 0, which writes journals and checkpoints. A side is late by the seconds
from its last step before the kill to its next new one, less a usual step. Each side has the machine, and a
Ray of its own, to itself.

    python benchmarks/train_recovery.py [--json] [--quick] [--model DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import plain_ray_train
from sides import BASE, plain_ray, run_apart, start_ray
from train_throughput import make_model, write_data

from cluster.config import Settings
from cluster.manifest import VersionKind
from cluster.recovery import receipts
from cluster.registry import ModelStore
from cluster.storage import Storage
from train_jobs.run_files import RunFiles
from train_jobs.spec import DataSpec, FaultTolerance, PeftSpec, TrainSpec

KILL_AFTER, STEPS, SAVE_STEPS = 12, 22, 5
RESTART_ASK, CONTINUE_ASK_S = 0.35, 1.2
_CPUS = 6
_WAIT_S = 300.0

Late = dict[str, float]


def plain_side(spec: TrainSpec, settings: Settings, workdir: Path, victim: int) -> None:
    """Plain Ray Train with its defaults; the rank `victim` is killed once."""
    killed: list[int] = []

    def on_step(mark: plain_ray_train.StepMark) -> None:
        if mark.step == KILL_AFTER and mark.rank == victim and not killed:
            killed.append(mark.pid)
            os.kill(mark.pid, signal.SIGKILL)

    plain_ray(spec, settings, workdir, on_step, _CPUS)


def linnet_side(spec: TrainSpec, settings: Settings, victim: int) -> None:
    """Linnet's driver; the rank `victim` is killed once."""
    from train_jobs import driver, fit

    fit.set_environment()
    start_ray(_CPUS)
    files = RunFiles(Storage(settings.root), spec.run)
    killer = threading.Thread(target=_kill_after, args=(files, victim), daemon=True)
    killer.start()
    driver.train(spec, settings)


def _kill_after(files: RunFiles, victim: int) -> None:
    limit = time.monotonic() + _WAIT_S
    while time.monotonic() < limit:
        if any(record.step >= KILL_AFTER for record in files.read_steps()):
            os.kill(files.read_attempts()[0].workers[victim].pid, signal.SIGKILL)
            return
        time.sleep(0.01)


def late_plain(workdir: Path) -> Late:
    """How late plain Ray Train was."""
    marks = [mark for mark in plain_ray_train.read_marks(workdir) if mark.rank == 0]
    return _late([(mark.step, mark.at) for mark in marks])


def late_linnet(files: RunFiles) -> Late:
    """How late Linnet was, and what its receipt says of it."""
    late = _late([(record.step, record.at) for record in files.read_steps()])
    (receipt,) = receipts.read(files.storage, files.receipts)
    parts = ("detect_s", "isolate_s", "recover_s", "waited_s", "verify_s", "steps_redone")
    return late | {name: float(getattr(receipt, name)) for name in parts}


def _late(steps: list[tuple[int, float]]) -> Late:
    """From (step, moment) in order of writing: the one gap that a failure made."""
    furthest, last, gaps = steps[0][0], steps[0][1], []
    for step, at in steps[1:]:
        if step > furthest:
            gaps.append(at - last)
            furthest, last = step, at
    usual = statistics.median(gaps[: KILL_AFTER - 1])
    return {"late_s": max(gaps) - usual, "step_s": usual}


def one_round(base: TrainSpec, settings: Settings, home: Path, number: int) -> dict[str, Late]:
    """Every side once."""
    workdir = home / f"plain-{number}"
    workdir.mkdir()
    victim = (number + 1) % 2
    run_apart(plain_side, base, settings, workdir, victim)
    found = {"plain": late_plain(workdir)}
    sides = {
        "restart": {},
        "restart_with_standby": {"standby": 1},
        "continue": {"fault_tolerance": FaultTolerance.CONTINUE},
    }
    for side, changes in sides.items():
        spec = base.model_copy(update={**changes, "run": f"{side}-{number}"})
        run_apart(linnet_side, spec, settings, victim)
        found[side] = late_linnet(RunFiles(Storage(settings.root), spec.run))
        print(f"round {number}, rank {victim}: {side} {found[side]}, plain {found['plain']}", file=sys.stderr)
    return found


def measure(model: Path | None, rounds: int) -> dict[str, float]:
    """Medians over the rounds, each side's seconds and its ratio to plain Ray Train."""
    with tempfile.TemporaryDirectory(prefix="linnet-bench-", ignore_cleanup_errors=True) as home:
        os.environ["LINNET_HOME"] = home
        settings = Settings.load()
        source = model or make_model(Path(home) / "source")
        ModelStore.open(settings).publish(source, BASE, kind=VersionKind.BASE, source_label="benchmark")
        spec = TrainSpec(
            run="bench",
            model=str(BASE),
            data=DataSpec(train=str(write_data(Path(home) / "data.jsonl"))),
            max_steps=STEPS,
            learning_rate=1e-4,
            per_device_train_batch_size=3,
            save_steps=SAVE_STEPS,
            num_workers=2,
            peft=PeftSpec(r=16),
        )
        results = [one_round(spec, settings, Path(home), number) for number in range(rounds)]
    figures: dict[str, float] = {}
    for side in results[0]:
        for name in results[0][side]:
            figures[f"{side}.{name}"] = round(statistics.median(r[side][name] for r in results), 3)
        figures[f"{side}.ratio"] = round(figures[f"{side}.late_s"] / figures["plain.late_s"], 3)
    return figures


def asks(figures: dict[str, float]) -> list[dict[str, Any]]:
    """What was asked for, and whether it holds."""
    in_flight = figures["continue.step_s"] + CONTINUE_ASK_S
    return [
        {
            "what": "restart, late as a share of plain Ray Train's delay",
            "limit": f"<= {RESTART_ASK}",
            "value": figures["restart.ratio"],
            "met": figures["restart.ratio"] <= RESTART_ASK,
        },
        {
            "what": "continue, seconds late, against the step in flight plus 1.2 s",
            "limit": f"<= {in_flight:.2f}",
            "value": figures["continue.late_s"],
            "met": figures["continue.late_s"] <= in_flight,
        },
    ]


def main() -> None:
    """Measure and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--model", type=Path, help="directory of a real model in Hugging Face's form")
    arguments = parser.parse_args()
    figures = measure(arguments.model, 1 if arguments.quick else 3)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    found = {"name": "train_recovery", "machine": machine, "figures": figures, "asks": asks(figures)}
    if arguments.json:
        print(json.dumps(found))
        return
    print(machine)
    for name, value in figures.items():
        print(f"  {name:<40}{value:>10.3f}")
    for ask in asks(figures):
        print(f"  {'met   ' if ask['met'] else 'MISSED'} {ask['what']}: {ask['value']} (ask {ask['limit']})")


if __name__ == "__main__":
    main()

"""What a restart and an audit cost as a run grows: more checkpoints, more samples.

Finding the newest good checkpoint must not read the others, and the audit must be linear in the
samples. Growth exponents are slopes of log(time) over log(size) between the two largest sizes, where
what every start costs weighs least: 1 is linear. The one of the audit is given for CPU time too, which
other work on the machine disturbs less. Every size is measured in turn, `rounds` times over,
and the medians are reported.

    python benchmarks/resume_scale.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from cluster.manifest import LedgerHead
    from train_jobs.run_files import RunFiles
    from train_jobs.spec import TrainSpec

CHECKPOINTS = (10, 1_000, 10_000)
SAMPLES = (10**5, 10**6, 10**7, 10**8)
DATASET_SIZE = 3 * 10**6
BATCH = 1_000
STEPS_A_SEGMENT = 100
WEIGHTS = bytes(range(256)) * 16


class Counted:
    """A storage root that counts the bytes read through it."""

    def __init__(self, root: str) -> None:
        from cluster.storage import Storage

        class _Counting(Storage):
            read = 0

            @contextmanager
            def open_input(self, path: str) -> Iterator[BinaryIO]:
                self.read += self.size(path)
                with super().open_input(path) as stream:
                    yield stream

        self.storage = _Counting(root)

    def take(self) -> int:
        """Bytes read since the last call."""
        read, self.storage.read = self.storage.read, 0
        return read


def write_checkpoints(files: RunFiles, count: int) -> None:
    """Small sound checkpoints, written without the flushes that would dominate."""
    import hashlib

    from cluster.manifest import MANIFEST_NAME, CheckpointManifest, FileEntry

    entry = FileEntry(sha256=hashlib.sha256(WEIGHTS).hexdigest(), size=len(WEIGHTS))
    for step in range(1, count + 1):
        folder = files.storage.local_path(f"{files.checkpoints}/step_{step}")
        folder.mkdir(parents=True)
        (folder / "adapter.safetensors").write_bytes(WEIGHTS)
        manifest = CheckpointManifest(
            run=files.run, step=step, attempt=1, world_size=1, files={"adapter.safetensors": entry}
        )
        (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())


def write_ledger(files: RunFiles, spec: TrainSpec, samples: int) -> LedgerHead:
    """A sound ledger of `samples` samples in segments of `STEPS_A_SEGMENT` steps."""
    from train_jobs import ledger
    from train_jobs.sampling import positions

    head: LedgerHead | None = None
    for first in range(1, samples // BATCH + 1, STEPS_A_SEGMENT):
        taken = positions(
            spec.seed, (first - 1) * BATCH, STEPS_A_SEGMENT * BATCH, dataset_size=DATASET_SIZE
        ).reshape(STEPS_A_SEGMENT, BATCH)
        entries = [
            ledger.StepEntry(
                step=first + place,
                samples=row.tolist(),
                loss=1.0 / (first + place),
                grad_norm=0.5,
                learning_rate=1e-4,
                weight=BATCH * 20,
                tokens=BATCH * 100,
                draws="0123456789abcdef",
                fingerprint="fedcba9876543210",
                attempt=1,
            )
            for place, row in enumerate(taken)
        ]
        head = ledger.write_segment(files, entries, head, spec, dataset_size=DATASET_SIZE)
    assert head is not None
    return head


def measure_discover(root: str, counts: Sequence[int], rounds: int) -> dict[str, float]:
    """Seconds and bytes to find and verify the newest good checkpoint among `counts` of them."""
    from train_jobs import checkpoint
    from train_jobs.run_files import RunFiles

    counted = Counted(root)
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    read: dict[int, int] = {}
    runs = {count: RunFiles(counted.storage, f"checkpoints-{count}") for count in counts}
    for count, files in runs.items():
        write_checkpoints(files, count)
    for _ in range(rounds):
        for count, files in runs.items():
            counted.take()
            began = time.perf_counter()
            found = checkpoint.discover(files)
            seconds[count].append(time.perf_counter() - began)
            read[count] = counted.take()
            assert found.newest is not None
            assert found.newest.manifest.step == count
    figures = {f"discover_{count}_ms": statistics.median(seconds[count]) * 1e3 for count in counts}
    figures |= {f"discover_{count}_read_bytes": float(read[count]) for count in counts}
    figures["discover_exponent"] = exponent(counts, [statistics.median(seconds[c]) for c in counts])
    figures["discover_read_ratio"] = read[counts[-1]] / read[counts[0]]
    return figures


def measure_audit(root: str, sizes: Sequence[int], rounds: int) -> dict[str, float]:
    """Seconds to audit ledgers of `sizes` samples, and this process's peak memory before and after."""
    from cluster.storage import Storage
    from train_jobs import checkpoint
    from train_jobs.audit import audit
    from train_jobs.run_files import RunFiles

    spec = _spec()
    figures: dict[str, float] = {}
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    cpu: dict[int, list[float]] = {size: [] for size in sizes}
    runs = {size: RunFiles(Storage(root), f"ledger-{size}") for size in sizes}
    for size, files in runs.items():
        head = write_ledger(files, spec, size)
        step = size // BATCH
        checkpoint.commit(
            files,
            {"adapter.safetensors": WEIGHTS},
            step=step,
            attempt=1,
            world_size=1,
            metrics={},
            ledger=head,
        )
        bytes_stored = sum(files.storage.size(f"{files.ledger}/{name}") for name in _names(files))
        figures[f"ledger_{size:.0e}_bytes_a_sample"] = bytes_stored / size
    figures["writing_peak_mb"] = _peak_mb()
    for _ in range(rounds):
        for size, files in runs.items():
            began, began_cpu = time.perf_counter(), time.process_time()
            found = audit(files, spec.model_copy(update={"run": files.run}))
            seconds[size].append(time.perf_counter() - began)
            cpu[size].append(time.process_time() - began_cpu)
            assert found.is_proven
            assert found.samples == size
    figures |= {f"audit_{size:.0e}_s": statistics.median(seconds[size]) for size in sizes}
    figures["audit_samples_per_s"] = sizes[-1] / figures[f"audit_{sizes[-1]:.0e}_s"]
    figures["audit_exponent"] = exponent(sizes, [statistics.median(seconds[size]) for size in sizes])
    figures["audit_cpu_exponent"] = exponent(sizes, [statistics.median(cpu[size]) for size in sizes])
    figures["audit_peak_mb"] = _peak_mb()
    return figures


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Slope of log(seconds) over log(sizes) between the last two."""
    return math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2])


def _spec() -> TrainSpec:
    from train_jobs.spec import DataSpec, TrainSpec

    return TrainSpec(
        run="ledger",
        model="tiny:v1",
        data=DataSpec(train="unused.jsonl"),
        max_steps=SAMPLES[-1] // BATCH,
        learning_rate=1e-4,
        per_device_train_batch_size=BATCH,
    )


def _names(files: RunFiles) -> list[str]:
    from train_jobs import ledger

    return ledger.segment_files(files)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    """Measure and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and no audit of 10^8 samples")
    arguments = parser.parse_args()
    sizes = SAMPLES[:-1] if arguments.quick else SAMPLES
    with tempfile.TemporaryDirectory() as root:
        figures = measure_discover(root, CHECKPOINTS, rounds=3 if arguments.quick else 9)
    with tempfile.TemporaryDirectory() as root:
        figures |= measure_audit(root, sizes, rounds=1 if arguments.quick else 3)
    figures = {name: round(value, 4) for name, value in figures.items()}
    asks = [
        _ask("growth of finding the newest checkpoint", "<= 1.1", figures["discover_exponent"], 1.1),
        _ask("bytes read among 10,000 over among 10", "<= 1.01", figures["discover_read_ratio"], 1.01),
        _ask("growth of the audit", "<= 1.1", figures["audit_exponent"], 1.1),
    ]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if arguments.json:
        print(json.dumps({"name": "resume_scale", "machine": machine, "figures": figures, "asks": asks}))
        return
    print(machine)
    for name, value in figures.items():
        print(f"  {name:<32}{value:>16,.3f}".rstrip("0").rstrip("."))
    for ask in asks:
        print(f"  {'met   ' if ask['met'] else 'MISSED'} {ask['what']}: {ask['value']} (ask {ask['limit']})")


def _ask(what: str, limit: str, value: float, most: float) -> dict[str, Any]:
    return {"what": what, "limit": limit, "value": value, "met": value <= most}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()

"""Encoding as a task of Ray, wherever it has a CPU, and what the driver says of it."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.config import Settings
from cluster.refs import VersionRef
from train_jobs.encoded import EncodedData, prepare
from train_jobs.ray_errors import get
from train_jobs.spec import TrainSpec


def encode(spec: TrainSpec, settings: Settings, base: VersionRef, path: str, *, packing: bool) -> EncodedData:
    """`prepare` on the cluster; raises what it raises."""
    import ray

    task = ray.remote(num_cpus=1)(prepare)
    found: EncodedData = get(task.remote(spec, settings, base, path, packing=packing))
    return found


def sentences(found: EncodedData) -> Iterator[str]:
    """What became of the rows: those that are not used, by reason, and how many packs the others make."""
    for reason, rows in found.dropped.items():
        few = ", ".join(rows.first_ids) + (", …" if rows.count > len(rows.first_ids) else "")
        yield f"dropped {rows.count} rows: {reason} ({few})"
    if found.samples < found.rows:
        yield f"packed {found.rows} samples in {found.samples} rows"

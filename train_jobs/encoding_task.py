"""Encoding as a task of Ray, wherever it has a CPU, and what the driver says of it."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.config import Settings
from cluster.errors import ConfigError
from cluster.refs import VersionRef
from train_jobs.encoded import EncodedData, prepare
from train_jobs.encoding import DroppedRows
from train_jobs.ray_errors import get
from train_jobs.spec import BadRows, TrainSpec


def encode(spec: TrainSpec, settings: Settings, base: VersionRef, path: str, *, packing: bool) -> EncodedData:
    """`prepare` on the cluster; raises what it raises, and what `require_usable` raises."""
    import ray

    task = ray.remote(num_cpus=1)(prepare)
    found: EncodedData = get(task.remote(spec, settings, base, path, packing=packing))
    require_usable(spec, settings, path, found)
    return found


def require_usable(spec: TrainSpec, settings: Settings, path: str, found: EncodedData) -> None:
    """Raise ConfigError `data.bad_rows` for rows that cannot be used, unless the spec says to skip them."""
    if not found.dropped or spec.data.on_bad_rows is BadRows.SKIP:
        return
    bad = sum(rows.count for rows in found.dropped.values())
    told = "; ".join(f"{rows.count} x {_named(reason, rows)}" for reason, rows in found.dropped.items())
    raise ConfigError(
        f"{bad} of the {bad + found.rows} rows of `{path}` cannot be used: {told}.",
        code="data.bad_rows",
        hint=f"Mend them, or set `data.on_bad_rows=skip` to train without them; all are named in "
        f"{settings.root.rstrip('/')}/{found.dropped_file}.",
    )


def sentences(found: EncodedData, path: str) -> Iterator[str]:
    """What became of the rows: those that are not used, by reason, and how many packs the others make."""
    for reason, rows in found.dropped.items():
        yield f"dropped {rows.count} rows of {path}: {_named(reason, rows)}"
    if found.dropped:
        yield f"all dropped rows of {path} are named in {found.dropped_file}"
    if found.samples < found.rows:
        yield f"packed {found.rows} samples in {found.samples} rows"


def _named(reason: str, rows: DroppedRows) -> str:
    few = ", ".join(rows.first_ids) + (", …" if rows.count > len(rows.first_ids) else "")
    return f"{reason} ({few})"

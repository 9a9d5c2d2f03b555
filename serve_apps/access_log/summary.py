"""The log in a few numbers a version."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

COLUMNS = (
    "model",
    "version",
    "status",
    "error_code",
    "ttft_s",
    "e2e_s",
    "completion_tokens",
    "retries",
    "continued",
)
_PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def summarize(tables: Iterable[pa.Table]) -> list[dict[str, Any]]:
    """One dictionary a version, by model and version."""
    rows = pa.concat_tables(list(tables) or [pa.table({name: [] for name in COLUMNS})])
    keys = rows.group_by(["model", "version"]).aggregate([]).to_pylist() if rows.num_rows else []
    return [
        _version(
            key, rows.filter((pc.field("model") == key["model"]) & (pc.field("version") == key["version"]))
        )
        for key in sorted(keys, key=lambda key: (key["model"], key["version"]))
    ]


def for_people(row: dict[str, Any]) -> dict[str, Any]:
    """A dictionary of `summarize` with its shares in percent and its percentiles in one cell."""
    shown = {name: _cell(value) if isinstance(value, dict) else value for name, value in row.items()}
    return {**shown, "error_share": f"{row['error_share']:.2%}"}


def _cell(percentiles: dict[str, float | None]) -> str:
    return " / ".join("-" if value is None else f"{value:.3g}" for value in percentiles.values())


def _version(key: dict[str, Any], rows: pa.Table) -> dict[str, Any]:
    speed = pc.divide(pc.cast(rows["completion_tokens"], pa.float64()), rows["e2e_s"])
    return {
        **key,
        "requests": rows.num_rows,
        "error_share": round(pc.mean(pc.cast(_failed(rows), pa.float64())).as_py(), 6),
        "ttft_s": _percentiles(rows["ttft_s"]),
        "e2e_s": _percentiles(rows["e2e_s"]),
        "tokens_per_s": _percentiles(speed, from_above=True),
        "retries": pc.sum(rows["retries"]).as_py(),
        "continued": pc.sum(rows["continued"]).as_py(),
    }


def _failed(rows: pa.Table) -> pa.ChunkedArray:
    """The version's own failures, broken streams too; not what callers did wrong or left."""
    broken = pc.and_(pc.less(rows["status"], 400), pc.not_equal(rows["error_code"], ""))
    return pc.or_(pc.greater_equal(rows["status"], 500), broken)


def _percentiles(values: pa.ChunkedArray, *, from_above: bool = False) -> dict[str, float | None]:
    """p95 is what 95% stay below, or, `from_above`, what 95% reach."""
    shares = [1 - share if from_above else share for share in _PERCENTILES.values()]
    found = pc.quantile(values, shares).to_pylist()
    return {
        name: None if value is None else round(value, 6)
        for name, value in zip(_PERCENTILES, found, strict=True)
    }

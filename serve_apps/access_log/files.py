"""The log's Parquet files: `day=…/model=…/version=…/<spool>.parquet` below a folder of the storage root."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import date

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq

from cluster.storage import Storage
from serve_apps.gateway.observation import Observation

FOLDER = "logs/access"
AT = pa.timestamp("us", tz="UTC")
PARTITIONS = ("day", "model", "version")
SUFFIX = ".parquet"

_DAY = "day="
_LONGEST_LINE = 4 * 1024 * 1024

SCHEMA = pa.schema(
    [
        ("at", AT),
        ("request_id", pa.string()),
        ("model", pa.string()),
        ("version", pa.string()),
        ("route", pa.string()),
        ("key_hash", pa.string()),
        ("stream", pa.bool_()),
        ("status", pa.int64()),
        ("error_code", pa.string()),
        ("ttft_s", pa.float64()),
        ("itl_s", pa.float64()),
        ("e2e_s", pa.float64()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("finish_reason", pa.string()),
        ("retries", pa.int64()),
        ("continued", pa.int64()),
        ("task", pa.string()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
    ]
)

_row = msgspec.json.Decoder(Observation)


def store(storage: Storage, name: str, lines: bytes) -> None:
    """Write a spool's rows, one file a partition. A second time it writes the same files again."""
    for (day, model, version), rows in _partitions(read(lines)):
        sink = pa.BufferOutputStream()
        pq.write_table(rows.drop_columns(["model", "version"]), sink, compression="zstd")
        path = f"{FOLDER}/{_DAY}{day}/model={model}/version={version}/{name}{SUFFIX}"
        storage.write_atomic(path, memoryview(sink.getvalue()))


def read(lines: bytes) -> pa.Table:
    """A spool's rows; lines that are damaged are left out."""
    try:
        lines.decode()
        return _parsed(lines)
    except ValueError:
        return _parsed(b"".join(line for line in lines.splitlines(keepends=True) if _is_row(line)))


def days(storage: Storage) -> list[date]:
    """The days that have a folder, oldest first."""
    found = []
    for name in storage.list_dirs(FOLDER):
        with suppress(ValueError):
            found.append(date.fromisoformat(name.removeprefix(_DAY)))
    return sorted(found)


def folder_of(day: date) -> str:
    """Where a day's files are."""
    return f"{FOLDER}/{_DAY}{day}"


def remove_days_before(storage: Storage, first: date) -> None:
    """Delete the folders of the days before `first`."""
    for day in days(storage):
        if day < first:
            storage.delete_dir(folder_of(day))


def files_of(storage: Storage, day: date, model: str | None, version: str | None) -> list[str]:
    """Paths of a day's files, of one model and one version where they are given."""
    below = folder_of(day)
    if model is not None:
        below += f"/model={model}" + (f"/version={version}" if version is not None else "")
    found = (f"{below}/{file}" for file in storage.list_files(below) if file.endswith(SUFFIX))
    return [file for file in found if version is None or f"/version={version}/" in file]


def _parsed(lines: bytes) -> pa.Table:
    if not lines:
        return SCHEMA.empty_table()
    return pj.read_json(
        pa.BufferReader(lines),
        pj.ReadOptions(block_size=_LONGEST_LINE),
        pj.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore"),
    )


def _is_row(line: bytes) -> bool:
    try:
        _row.decode(line)
    except ValueError:
        return False
    return True


def _partitions(rows: pa.Table) -> Iterator[tuple[tuple[str, str, str], pa.Table]]:
    dated = rows.append_column("day", pc.strftime(rows["at"], format="%Y-%m-%d"))
    for key in dated.group_by(PARTITIONS).aggregate([]).to_pylist():
        fits = [pc.field(name) == key[name] for name in PARTITIONS]
        part = dated.filter(fits[0] & fits[1] & fits[2]).drop_columns(["day"])
        yield (key["day"], key["model"], key["version"]), part

"""Files of rows: jsonl, json, csv, parquet and plain text, their columns and their rows one by one."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from cluster.errors import ConfigError, NotFoundError, one_of
from cluster.manifest import MANIFEST_NAME
from train_jobs.data.json_arrays import JsonArrayError, elements

_PEEKED_ROWS = 1000
_SPLIT_NAMES = ("train", "validation", "valid", "dev", "test", "eval")

# A row, or why the line in its place is none.
RowOrReason = dict[str, Any] | str


def data_files(path: str | Path) -> list[Path]:
    """The data files that `path` stands for: itself, or all below a directory, sorted.

    Raises NotFoundError when there is nothing, and ConfigError for a file type that is not
    read or for a directory of several splits, which must not be trained on as one.
    """
    chosen = Path(path).expanduser()
    if chosen.is_file():
        if chosen.suffix not in _READERS:
            raise _unknown_type(chosen)
        return [chosen]
    if not chosen.is_dir():
        raise NotFoundError(
            f"There is no data at `{path}`.",
            code="data.not_found",
            hint="Give a file or a directory; `linnet data list` shows what has been prepared.",
        )
    files = _files_below(chosen)
    if not files:
        raise _unknown_type(chosen)
    if len(found := split_files(chosen)) > 1:
        raise ConfigError(
            f"`{path}` holds the splits {one_of(found)}; read together they would mix.",
            code="data.several_splits",
            hint=f"Name one of them: {next(iter(found.values()))}",
        )
    return files


def split_files(directory: Path) -> dict[str, Path]:
    """The files below `directory` named after a split (`train.parquet`, `test-00.jsonl`), first of each."""
    found: dict[str, Path] = {}
    for file in _files_below(directory):
        name = file.stem.lower().replace("_", "-").split("-")[0]
        if name in _SPLIT_NAMES:
            found.setdefault(name, file)
    return found


def _files_below(directory: Path) -> list[Path]:
    return sorted(item for item in directory.rglob("*") if _is_data(item, directory))


def _is_data(item: Path, root: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in item.relative_to(root).parts)
    return item.is_file() and item.suffix in _READERS and item.name != MANIFEST_NAME and not hidden


def _unknown_type(path: Path) -> ConfigError:
    what = "holds no data file" if path.is_dir() else f"has the ending `{path.suffix}`, which is not read"
    return ConfigError(f"`{path}` {what}.", code="data.file_type", hint=f"Accepted: {one_of(_READERS)}.")


def columns_of(file: Path) -> list[str]:
    """Column names; for JSON the keys of the first 1,000 rows. Raises ConfigError if unreadable."""
    with _readable(file):
        if file.suffix == ".parquet":
            import pyarrow.parquet as pq

            return list(pq.read_schema(file).names)
        if file.suffix == ".csv":
            with _open_text(file) as stream:
                return [name for name in csv.DictReader(stream).fieldnames or [] if name]
        seen: dict[str, None] = {}
        for row in islice(_READERS[file.suffix](file), _PEEKED_ROWS):
            if isinstance(row, dict):
                seen.update(dict.fromkeys(row))
        return list(seen)


def rows_of(file: Path) -> Iterator[RowOrReason]:
    """Every row in order; a line that is no row comes as the reason. Raises ConfigError if unreadable."""
    with _readable(file):
        yield from _READERS[file.suffix](file)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (UnicodeDecodeError, csv.Error, JsonArrayError, pa.ArrowException, OSError) as error:
        raise ConfigError(
            f"`{file}` cannot be read as {file.suffix[1:]}: {str(error).splitlines()[0]}.",
            code="data.unreadable",
            hint="Files are UTF-8; write the file again, or look at its first lines.",
        ) from None


def _open_text(file: Path) -> TextIO:
    return file.open(encoding="utf-8-sig", newline="" if file.suffix == ".csv" else None)


def _json_lines(file: Path) -> Iterator[RowOrReason]:
    with _open_text(file) as stream:
        for line in stream:
            if line.strip():
                yield _json_row(line)


def _json_row(line: str) -> RowOrReason:
    try:
        value = json.loads(line)
    except ValueError:
        return "not valid JSON"
    return value if isinstance(value, dict) else "not a JSON object"


def _json(file: Path) -> Iterator[RowOrReason]:
    with _open_text(file) as stream:
        is_list = stream.read(4096).lstrip().startswith("[")
    if not is_list:
        yield from _json_lines(file)
        return
    with _open_text(file) as stream:
        for value in elements(stream):
            yield value if isinstance(value, dict) else "not a JSON object"


def _csv(file: Path) -> Iterator[RowOrReason]:
    csv.field_size_limit(sys.maxsize)
    with _open_text(file) as stream:
        for row in csv.DictReader(stream):
            yield "more values than columns" if None in row else row


def _parquet(file: Path) -> Iterator[RowOrReason]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=256):
            yield from batch.to_pylist()


def _text_lines(file: Path) -> Iterator[RowOrReason]:
    with _open_text(file) as stream:
        for line in stream:
            yield {"text": line.rstrip("\n")}


_READERS: dict[str, Callable[[Path], Iterator[RowOrReason]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _text_lines,
}

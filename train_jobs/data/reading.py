"""Reading a dataset: one format for all its files, usable rows as examples, the rest with reasons."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cluster.errors import ConfigError
from train_jobs.data.formats import Format, convert, recognise
from train_jobs.data.records import Dropped, DroppedSink, Example, Pair, Place, count_reasons
from train_jobs.data.tables import columns_of, data_files, rows_of

Row = TypeVar("Row")


@dataclass(frozen=True)
class Loaded:
    """A dataset in memory."""

    format: Format
    examples: list[Example | Pair]
    dropped: list[Dropped]


def detect_format(path: str | Path, wanted: Iterable[Format] = ()) -> Format:
    """The format that every file of `path` has, one of those `wanted` if their columns allow it.

    Raises ConfigError when the files have none or differ.
    """
    files = data_files(path)
    formats = {file: _format_of(file, wanted) for file in files}
    first = formats[files[0]]
    for file, data_format in formats.items():
        if data_format is not first:
            raise ConfigError(
                f"`{file}` is {data_format}, `{files[0]}` is {first}.",
                code="data.mixed_formats",
                hint="Keep files of one format in a directory.",
            )
    return first


def _format_of(file: Path, wanted: Iterable[Format]) -> Format:
    columns = columns_of(file)
    if not columns:
        reasons = [row for row in rows_of(file) if isinstance(row, str)]
        raise nothing_usable(file, count_reasons(Place(0, file.name).dropped(reason) for reason in reasons))
    return recognise(columns, f"`{file}`", wanted)


def iter_examples(path: str | Path, data_format: Format) -> Iterator[Example | Pair | Dropped]:
    """Every row of every file in order, one at a time."""
    files = data_files(path)
    for file in files:
        for index, row in enumerate(rows_of(file)):
            if isinstance(row, str):
                yield Place(index, file.name).dropped(row)
            else:
                yield convert(row, data_format, index=index, file=file.name)


def read_examples(path: str | Path) -> Loaded:
    """The whole of a file or directory.

    Raises NotFoundError for a missing path; ConfigError for unknown or mixed formats, a file
    that cannot be read, and a dataset without one usable row.
    """
    data_format = detect_format(path)
    dropped: list[Dropped] = []
    examples: list[Example | Pair] = list(usable(iter_examples(path, data_format), dropped))
    if not examples:
        raise nothing_usable(path, count_reasons(dropped))
    return Loaded(data_format, examples, dropped)


def usable(rows: Iterable[Row | Dropped], dropped: DroppedSink) -> Iterator[Row]:
    """The rows that are used, one at a time; the others are added to `dropped`."""
    for row in rows:
        if isinstance(row, Dropped):
            dropped.append(row)
        else:
            yield row


def nothing_usable(path: str | Path, dropped: Mapping[str, int]) -> ConfigError:
    """The error of a dataset of which no row is left; `dropped` counts its rows by reason."""
    reasons = ", ".join(f"{count} x {reason}" for reason, count in dropped.items())
    return ConfigError(
        f"`{path}` has no usable row ({reasons or 'it is empty'}).",
        code="data.no_rows",
        hint="`linnet data inspect PATH` shows what was dropped and why.",
    )


def fingerprint(path: str | Path) -> str:
    """Sha256 (hex) of the bytes of a file, or of a directory's list of names and digests."""
    files = data_files(path)
    digests = [_sha256(file) for file in files]
    if len(files) == 1:
        return digests[0]
    listing = "".join(f"{digest}  {file.name}\n" for digest, file in zip(digests, files, strict=True))
    return hashlib.sha256(listing.encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

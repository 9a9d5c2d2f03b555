"""Encoding a dataset into plain files, a row at a time: what `dataset` maps into memory afterwards.

All numbers are little-endian. Row i is `input_ids[offsets[i]:offsets[i + 1]]`, and `labels` alike; its id
is the UTF-8 text `ids[id_offsets[i]:id_offsets[i + 1]]`; `answers[i]` counts its tokens that take part in
the loss. Pack p consists of the rows `pack_rows[pack_offsets[p]:pack_offsets[p + 1]]`. Of preferences
there are two such sets of files, below `chosen` and `rejected`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import numpy as np

from cluster.config import StrictModel
from cluster.errors import ConfigError
from train_jobs.data.formats import Format
from train_jobs.data.reading import detect_format, iter_examples, nothing_usable, usable
from train_jobs.data.records import Dropped, Encoded, Example, Pair
from train_jobs.data.rendering import IGNORED, encode_all, encode_pairs
from train_jobs.packing import iter_packs
from train_jobs.spec import Method

CHOSEN, REJECTED = "chosen", "rejected"
PACK_PREFIX = "pack_"
DROPPED = "dropped.jsonl"
TYPES = {
    "input_ids": "<i4",
    "labels": "<i4",
    "offsets": "<i8",
    "answers": "<i8",
    "ids": "<u1",
    "id_offsets": "<i8",
    f"{PACK_PREFIX}offsets": "<i8",
    f"{PACK_PREFIX}rows": "<i8",
}
PAIR_FORMATS = (Format.PREFERENCES,)
ANSWER_FORMATS = tuple(known for known in Format if known not in PAIR_FORMATS)

_FIRST_IDS = 5


class Way(StrictModel):
    """How rows become tokens; `packing_seed` is None where each row stays a sample of its own."""

    method: Method
    max_length: int
    packing_seed: int | None = None


class DroppedRows(StrictModel):
    """How many rows were dropped for one reason, and what the first of them are called."""

    count: int = 0
    first_ids: tuple[str, ...] = ()


class Longest(StrictModel):
    """The most tokens that a sample has, of pairs a side, and the most that take part in its loss."""

    tokens: int = 0
    answers: int = 0

    def or_longer(self, other: Longest) -> Longest:
        """The most of both."""
        return Longest(
            tokens=max(self.tokens, other.tokens),
            answers=max(self.answers, other.answers),
        )


class Contents(StrictModel):
    """What was written: `rows`, of which `samples` are made (packs, or rows), and what was left out."""

    rows: int
    samples: int
    longest: Longest
    dropped: dict[str, DroppedRows]


def encode_into(directory: Path, path: str, tokenizer_dir: Path, way: Way) -> Contents:
    """Encode the data at `path` into files in the empty `directory`, flushed to disk; memory is bounded.

    Raises NotFoundError for a missing path; ConfigError for unknown or mixed formats, data of another
    method, a file that cannot be read, a tokenizer that does not do, and data without one usable row.
    """
    with _DroppedRows(directory / DROPPED) as dropped:
        if way.method is Method.DPO:
            rows, longest = _write_pairs(directory, path, _tokenizer(tokenizer_dir), way.max_length, dropped)
        else:
            rows, longest = _write_answers(
                directory, path, _tokenizer(tokenizer_dir), way.max_length, dropped
            )
    by_count = dict(sorted(dropped.by_reason.items(), key=lambda item: -item[1].count))
    if not rows:
        raise nothing_usable(path, {reason: found.count for reason, found in by_count.items()})
    samples = rows
    if way.packing_seed is not None:
        samples, longest = _write_packs(directory, way.max_length, way.packing_seed)
    return Contents(rows=rows, samples=samples, longest=longest, dropped=by_count)


def column_path(directory: Path, column: str) -> Path:
    """Where a column of TYPES is."""
    return directory / f"{column}.bin"


def _write_answers(
    directory: Path, path: str, tokenizer: Any, max_length: int, dropped: _DroppedRows
) -> tuple[int, Longest]:
    """How many rows were written, and the longest of them."""
    examples = cast("Iterator[Example]", usable(_rows(path, Method.SFT, ANSWER_FORMATS), dropped))
    with _Rows(directory) as rows:
        for sample in usable(encode_all(examples, tokenizer, max_length), dropped):
            rows.add(sample)
        return rows.count, rows.longest


def _write_pairs(
    directory: Path, path: str, tokenizer: Any, max_length: int, dropped: _DroppedRows
) -> tuple[int, Longest]:
    """How many pairs were written, and the longest sides of them."""
    pairs = cast("Iterator[Pair]", usable(_rows(path, Method.DPO, PAIR_FORMATS), dropped))
    with _Rows(directory / CHOSEN) as chosen, _Rows(directory / REJECTED) as rejected:
        for pair in usable(encode_pairs(pairs, tokenizer, max_length), dropped):
            chosen.add(pair.chosen)
            rejected.add(pair.rejected)
        return chosen.count, chosen.longest.or_longer(rejected.longest)


def _write_packs(directory: Path, max_length: int, seed: int) -> tuple[int, Longest]:
    """How many packs the rows make, and the longest of them."""
    offsets, answers = (
        np.memmap(column_path(directory, name), TYPES[name], mode="r") for name in ("offsets", "answers")
    )
    longest = Longest()
    with ExitStack() as stack:
        starts, rows = (
            stack.enter_context(_Column(directory, name)) for name in ("pack_offsets", "pack_rows")
        )
        starts.add([0])
        count = end = 0
        for pack in iter_packs(offsets, max_length, seed):
            rows.add(pack)
            end += len(pack)
            starts.add([end])
            count += 1
            tokens = int(sum(offsets[row + 1] - offsets[row] for row in pack))
            longest = longest.or_longer(Longest(tokens=tokens, answers=int(answers[pack].sum())))
    return count, longest


def _rows(path: str, method: Method, accepted: Collection[Format]) -> Iterator[Example | Pair | Dropped]:
    found = detect_format(path, accepted)
    if found not in accepted:
        other = Method.SFT if method is Method.DPO else Method.DPO
        raise ConfigError(
            f"`{path}` is in the format {found}, which the method {method} cannot train on.",
            code="data.format_for_method",
            hint=f"`{method}` accepts: {', '.join(accepted)}. Set `method: {other}`, or name other data.",
        )
    return iter_examples(path, found)


def _tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


class _File:
    """A new file, flushed to disk when it is left."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream: BinaryIO = path.open("xb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stream:
            if error is None:
                self._stream.flush()
                os.fsync(self._stream.fileno())


class _Column(_File):
    """Numbers of one type."""

    def __init__(self, directory: Path, name: str) -> None:
        super().__init__(column_path(directory, name))
        self._type = np.dtype(TYPES[name])

    def add(self, numbers: Sequence[int] | np.ndarray) -> None:
        self._stream.write(np.asarray(numbers, self._type).data)


class _Rows:
    """The columns of one set of rows."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()
        self.count = self._tokens = self._id_bytes = 0
        self.longest = Longest()

    def __enter__(self) -> Self:
        names = ("input_ids", "labels", "offsets", "answers", "ids", "id_offsets")
        self._columns = {name: self._stack.enter_context(_Column(self._directory, name)) for name in names}
        self._columns["offsets"].add([0])
        self._columns["id_offsets"].add([0])
        return self

    def __exit__(self, *failure: Any) -> None:
        self._stack.__exit__(*failure)

    def add(self, row: Encoded) -> None:
        columns, name = self._columns, row.id.encode(errors="surrogatepass")
        self.count, self._tokens = self.count + 1, self._tokens + len(row.input_ids)
        self._id_bytes += len(name)
        columns["input_ids"].add(row.input_ids)
        columns["labels"].add(row.labels)
        columns["offsets"].add([self._tokens])
        # The first token is never predicted, so its label cannot count.
        answers = sum(label != IGNORED for label in row.labels[1:])
        columns["answers"].add([answers])
        self.longest = self.longest.or_longer(Longest(tokens=len(row.input_ids), answers=answers))
        columns["ids"].add(np.frombuffer(name, np.uint8))
        columns["id_offsets"].add([self._id_bytes])


class _DroppedRows(_File):
    """Id and reason of each row that is not used, a line each."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.by_reason: dict[str, DroppedRows] = {}

    def append(self, row: Dropped) -> None:
        found = self.by_reason.get(row.reason, DroppedRows())
        first = (*found.first_ids, row.id)[:_FIRST_IDS]
        self.by_reason[row.reason] = DroppedRows(count=found.count + 1, first_ids=first)
        self._stream.write(json.dumps({"id": row.id, "reason": row.reason}).encode() + b"\n")

"""Encoded datasets, mapped from their files: a page of them is in memory while it is used, shared by all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from train_jobs import encoding
from train_jobs.data.reading import fingerprint
from train_jobs.data.records import Dropped, ids_by_reason
from train_jobs.data.rendering import IGNORED
from train_jobs.encoding import CHOSEN, DROPPED, REJECTED, TYPES, Way, column_path
from train_jobs.spec import Method, TrainSpec


class Names(Sequence[str]):
    """Ids of rows, each read when it is asked for: row i's is the UTF-8 text `text[ends[i]:ends[i + 1]]`."""

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self._text, self._ends = text, ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self._text[self._ends[place] : self._ends[place + 1]].tobytes().decode(errors="surrogatepass")


@dataclass(frozen=True, eq=False)
class PackedDataset:
    """Sample i consists of whole rows: of row i alone, or with packing of the rows that `packs` says.

    Row r is `input_ids[offsets[r]:offsets[r + 1]]`, and `labels` alike; `answers[r]` counts its tokens that
    take part in the loss. `dropped_lines` has one of JSON, id and reason, for each row that is not used.
    """

    row_ids: Sequence[str]
    offsets: NDArray[np.int64]
    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    answers: NDArray[np.int64]
    fingerprint: str
    dropped_lines: NDArray[np.uint8]
    packs: Packs | None = None

    def __len__(self) -> int:
        return len(self.packs or self.row_ids)

    @property
    def ids(self) -> Sequence[str]:
        """What the samples are called; a pack by the ids of its rows, joined by `+`."""
        return _PackNames(self.row_ids, self.packs) if self.packs else self.row_ids

    @property
    def dropped_ids(self) -> Mapping[str, list[str]]:
        """Ids of the rows that are not used, by reason, the most frequent reason first."""
        return ids_by_reason(Dropped(0, reason, id=name) for reason, name in self._dropped())

    @property
    def dropped(self) -> dict[str, int]:
        """Rows that are not used, counted by reason."""
        return {reason: len(ids) for reason, ids in self.dropped_ids.items()}

    def sample(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token ids and labels of one sample, each of shape (length,).

        No label of a pack asks for a row's first token, which the row before would have to predict.
        """
        if self.packs is None:
            return self._row(index)
        rows = [self._row(row) for row in self.packs[index]]
        labels = np.concatenate([wanted for _, wanted in rows])
        labels[self._starts(index)] = IGNORED
        return np.concatenate([ids for ids, _ in rows]), labels

    def positions(self, index: int) -> NDArray[np.int64]:
        """Where each token of a sample stands in its row, shape (length,)."""
        return np.concatenate([np.arange(length) for length in self._row_lengths(index)])

    def lengths(self, indices: Iterable[int]) -> int:
        """Tokens of all the samples together."""
        return int(sum(sum(self._row_lengths(i)) for i in indices))

    def answer_tokens(self, indices: Iterable[int]) -> int:
        """Tokens of all the samples that take part in the loss."""
        return int(sum(self.answers[row] for i in indices for row in self._rows(i)))

    def _rows(self, index: int) -> Sequence[int]:
        return (index,) if self.packs is None else self.packs[index]

    def _row_lengths(self, index: int) -> list[int]:
        return [int(self.offsets[row + 1] - self.offsets[row]) for row in self._rows(index)]

    def _starts(self, index: int) -> NDArray[np.int64]:
        return np.cumsum([0, *self._row_lengths(index)[:-1]])

    def _row(self, row: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        span = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        return self.input_ids[span], self.labels[span]

    def _dropped(self) -> Iterator[tuple[str, str]]:
        for line in self.dropped_lines.tobytes().splitlines():
            row = json.loads(line)
            yield row["reason"], row["id"]


class Packs(Sequence[list[int]]):
    """The rows of each pack: those of pack p are `rows[ends[p]:ends[p + 1]]`."""

    def __init__(self, rows: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        self._rows, self._ends = rows, ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        found: list[int] = self._rows[self._ends[place] : self._ends[place + 1]].tolist()
        return found


class _PackNames(Sequence[str]):
    def __init__(self, row_ids: Sequence[str], packs: Packs) -> None:
        self._row_ids, self._packs = row_ids, packs

    def __len__(self) -> int:
        return len(self._packs)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return "+".join(self._row_ids[row] for row in self._packs[index])


@dataclass(frozen=True, eq=False)
class PairDataset:
    """Pair i is sample i of `chosen` and sample i of `rejected`, which agree in all but the answers."""

    chosen: PackedDataset
    rejected: PackedDataset

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def ids(self) -> Sequence[str]:
        """What the pairs are called."""
        return self.chosen.ids

    @property
    def fingerprint(self) -> str:
        """Identity (sha256 in hex) of what they were made from."""
        return self.chosen.fingerprint

    @property
    def dropped_ids(self) -> Mapping[str, list[str]]:
        """Ids of the rows that are not used, by reason."""
        return self.chosen.dropped_ids

    @property
    def dropped(self) -> dict[str, int]:
        """Rows that are not used, counted by reason."""
        return self.chosen.dropped

    def lengths(self, indices: Collection[int]) -> int:
        """Tokens of both sides of all the pairs together."""
        return self.chosen.lengths(indices) + self.rejected.lengths(indices)


Samples = PackedDataset | PairDataset


def map_dataset(directory: Path, method: Method, data_fingerprint: str) -> Samples:
    """Map what `encode_into` wrote. The directory may go away while it is mapped."""
    dropped = _mapped(directory / DROPPED, "<u1")
    if method is not Method.DPO:
        return _map_rows(directory, data_fingerprint, dropped)
    sides = (_map_rows(directory / side, data_fingerprint, dropped) for side in (CHOSEN, REJECTED))
    return PairDataset(*sides)


def load_dataset(spec: TrainSpec, tokenizer_dir: Path, path: str) -> Samples:
    """What `spec` trains on, from `path`, in files of no name. Raises what `encode_into` raises."""
    seed = spec.seed if spec.packing else None
    way = Way(method=spec.method, max_length=spec.max_length, packing_seed=seed)
    return _load(path, tokenizer_dir, way)


def load_packed(path: str, tokenizer_dir: Path, max_length: int) -> PackedDataset:
    """Answers for this process and its children, a row a sample; lengths are in tokens."""
    found = _load(path, tokenizer_dir, Way(method=Method.SFT, max_length=max_length))
    assert isinstance(found, PackedDataset)
    return found


def load_pairs(path: str, tokenizer_dir: Path, max_length: int) -> PairDataset:
    """Preferences, as `load_packed` does answers; each side is at most `max_length` long."""
    found = _load(path, tokenizer_dir, Way(method=Method.DPO, max_length=max_length))
    assert isinstance(found, PairDataset)
    return found


def _load(path: str, tokenizer_dir: Path, way: Way) -> Samples:
    with tempfile.TemporaryDirectory(prefix="linnet-encoded-") as scratch:
        encoding.encode_into(Path(scratch), path, tokenizer_dir, way)
        return map_dataset(Path(scratch), way.method, fingerprint(path))


def _map_rows(directory: Path, data_fingerprint: str, dropped: NDArray[np.uint8]) -> PackedDataset:
    def column(name: str) -> NDArray[Any]:
        return _mapped(column_path(directory, name), TYPES[name])

    packed = column_path(directory, "pack_rows").exists()
    return PackedDataset(
        row_ids=Names(column("ids"), column("id_offsets")),
        offsets=column("offsets"),
        input_ids=column("input_ids"),
        labels=column("labels"),
        answers=column("answers"),
        fingerprint=data_fingerprint,
        dropped_lines=dropped,
        packs=Packs(column("pack_rows"), column("pack_offsets")) if packed else None,
    )


def _mapped(path: Path, kind: str) -> NDArray[Any]:
    # Slices of a memmap are memmaps, which are slow to make; there is no mapping of nothing.
    if not path.stat().st_size:
        return np.empty(0, kind)
    return np.memmap(path, kind, mode="r").view(np.ndarray)

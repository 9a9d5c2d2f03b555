"""Encoded samples packed into a few arrays, which Ray shares with every worker without a copy."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from cluster.errors import ConfigError
from train_jobs.data.formats import Format
from train_jobs.data.reading import detect_format, fingerprint, iter_examples, nothing_usable, usable
from train_jobs.data.records import Dropped, Encoded, Example, Pair, ids_by_reason
from train_jobs.data.rendering import IGNORED, encode_all, encode_pairs
from train_jobs.spec import Method, TrainSpec

PAIR_FORMATS = (Format.PREFERENCES,)
ANSWER_FORMATS = tuple(known for known in Format if known not in PAIR_FORMATS)


@dataclass(frozen=True)
class PackedDataset:
    """Sample i is `input_ids[offsets[i]:offsets[i+1]]`, and `labels` alike.

    `answers[i]` counts its tokens that take part in the loss. `dropped_ids` has the ids of the rows
    that are not used, by reason.
    """

    ids: list[str]
    offsets: NDArray[np.int64]
    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    answers: NDArray[np.int64]
    fingerprint: str
    dropped_ids: Mapping[str, list[str]]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dropped(self) -> dict[str, int]:
        """Rows that are not used, counted by reason."""
        return {reason: len(ids) for reason, ids in self.dropped_ids.items()}

    def sample(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Token ids and labels of one sample, each of shape (length,)."""
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.input_ids[span], self.labels[span]

    def lengths(self, indices: Iterable[int]) -> int:
        """Tokens of all the samples together."""
        return int(sum(self.offsets[i + 1] - self.offsets[i] for i in indices))

    def answer_tokens(self, indices: Iterable[int]) -> int:
        """Tokens of all the samples that take part in the loss."""
        return int(sum(self.answers[i] for i in indices))


@dataclass(frozen=True)
class PairDataset:
    """Pair i is sample i of `chosen` and sample i of `rejected`, which agree in all but the answers."""

    chosen: PackedDataset
    rejected: PackedDataset

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def ids(self) -> list[str]:
        """What the pairs are called."""
        return self.chosen.ids

    @property
    def fingerprint(self) -> str:
        """Sha256 (hex) of the file that they were read from."""
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


class _Packer:
    """Lays samples one behind the other in buffers that grow, four bytes a number."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._offsets, self._answers = array("q", [0]), array("q")
        self._input_ids, self._labels = array("i"), array("i")

    def add(self, sample: Encoded) -> None:
        self.ids.append(sample.id)
        self._input_ids.extend(sample.input_ids)
        self._labels.extend(sample.labels)
        self._offsets.append(len(self._input_ids))
        # The first token is never predicted, so its label cannot count.
        self._answers.append(sum(label != IGNORED for label in sample.labels[1:]))

    def packed(self, fingerprint: str, dropped_ids: Mapping[str, list[str]]) -> PackedDataset:
        return PackedDataset(
            ids=self.ids,
            offsets=np.frombuffer(self._offsets, np.int64),
            input_ids=np.frombuffer(self._input_ids, np.int32),
            labels=np.frombuffer(self._labels, np.int32),
            answers=np.frombuffer(self._answers, np.int64),
            fingerprint=fingerprint,
            dropped_ids=dropped_ids,
        )


def pack(
    examples: Iterable[Encoded], *, fingerprint: str, dropped_ids: Mapping[str, list[str]]
) -> PackedDataset:
    """Lay samples one behind the other; there must be one at least."""
    packer = _Packer()
    for example in examples:
        packer.add(example)
    return packer.packed(fingerprint, dropped_ids)


def load_dataset(spec: TrainSpec, tokenizer_dir: Path, path: str) -> Samples:
    """What the method of `spec` trains on, from `path`. Raises what `load_packed` raises."""
    load = load_pairs if spec.method is Method.DPO else load_packed
    return load(path, tokenizer_dir, spec.max_length)


def load_packed(path: str, tokenizer_dir: Path, max_length: int) -> PackedDataset:
    """Encode answers with the tokenizer of a model directory, one row at a time; lengths are in tokens.

    Raises NotFoundError for a missing path; ConfigError for unknown or mixed formats, preferences, a
    file that cannot be read, a tokenizer that does not do, and a dataset without one usable row.
    """
    packer, dropped = _Packer(), list[Dropped]()
    examples = cast("Iterator[Example]", usable(_rows(path, Method.SFT, ANSWER_FORMATS), dropped))
    for sample in usable(encode_all(examples, _tokenizer(tokenizer_dir), max_length), dropped):
        packer.add(sample)
    if not packer.ids:
        raise nothing_usable(path, dropped)
    return packer.packed(fingerprint(path), ids_by_reason(dropped))


def load_pairs(path: str, tokenizer_dir: Path, max_length: int) -> PairDataset:
    """Encode preferences, as `load_packed` does answers; each side is at most `max_length` long."""
    chosen, rejected, dropped = _Packer(), _Packer(), list[Dropped]()
    pairs = cast("Iterator[Pair]", usable(_rows(path, Method.DPO, PAIR_FORMATS), dropped))
    for pair in usable(encode_pairs(pairs, _tokenizer(tokenizer_dir), max_length), dropped):
        chosen.add(pair.chosen)
        rejected.add(pair.rejected)
    if not chosen.ids:
        raise nothing_usable(path, dropped)
    given = fingerprint(path), ids_by_reason(dropped)
    return PairDataset(chosen.packed(*given), rejected.packed(*given))


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

"""Encoded samples packed into a few arrays, which Ray shares with every worker without a copy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_jobs.data.records import Encoded, count_reasons
from train_jobs.data.rendering import IGNORED, encode_file


@dataclass(frozen=True)
class PackedDataset:
    """Sample i is `input_ids[offsets[i]:offsets[i+1]]`, and `labels` alike.

    `answers[i]` counts its tokens that take part in the loss.
    """

    ids: list[str]
    offsets: NDArray[np.int64]
    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    answers: NDArray[np.int64]
    fingerprint: str
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.ids)

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


def pack(examples: Iterable[Encoded], *, fingerprint: str, dropped: dict[str, int]) -> PackedDataset:
    """Lay samples one behind the other."""
    kept = list(examples)
    lengths = [len(example.input_ids) for example in kept]
    return PackedDataset(
        ids=[example.id for example in kept],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        input_ids=np.concatenate([np.asarray(e.input_ids, np.int32) for e in kept]),
        labels=np.concatenate([np.asarray(e.labels, np.int32) for e in kept]),
        # The first token is never predicted, so its label cannot count.
        answers=np.array([sum(label != IGNORED for label in e.labels[1:]) for e in kept], np.int64),
        fingerprint=fingerprint,
        dropped=dropped,
    )


def load_packed(path: str, tokenizer_dir: Path, max_length: int) -> PackedDataset:
    """Encode a dataset with the tokenizer of a model directory. Raises what `encode_file` raises."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_dir, local_files_only=True)
    encoded = encode_file(path, tokenizer, max_length)
    return pack(encoded, fingerprint=encoded.fingerprint, dropped=count_reasons(encoded.dropped))

"""What `linnet data inspect` reports: the format, lengths, a sample with its loss mask, what was dropped."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError
from train_jobs.data.formats import Format
from train_jobs.data.reading import fingerprint, nothing_usable, read_examples
from train_jobs.data.records import Dropped, Encoded, Example, count_reasons
from train_jobs.data.rendering import IGNORED, encode_all
from train_jobs.data.tables import split_files

_BINS = 10


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the sample; `trained` where loss is taken."""

    text: str
    trained: bool


@dataclass(frozen=True, slots=True)
class Bin:
    """`count` examples have a length from `low` to `high`, both included."""

    low: int
    high: int
    count: int


@dataclass(frozen=True)
class View:
    """The usable rows as seen in one unit: sorted lengths, and one of them in full.

    `trained_share` is the part of all tokens that takes loss; None without a tokenizer.
    """

    unit: str
    lengths: list[int]
    dropped: list[Dropped]
    trained_share: float | None
    sample_id: str
    sample: list[Segment]


@dataclass(frozen=True)
class Inspection:
    """A dataset's format and fingerprint, its usable rows, and why the others were dropped."""

    path: Path
    format: Format
    fingerprint: str
    dropped: dict[str, int]
    view: View


def choose_file(path: str | Path) -> Path:
    """`path`, or the training split of a directory that holds several."""
    splits = split_files(Path(path).expanduser())
    if len(splits) < 2:
        return Path(path).expanduser()
    return splits.get("train") or next(iter(splits.values()))


def load_tokenizer(text: str) -> Any:
    """The tokenizer of a local directory or of a version in the model store (`smollm2@stable`).

    Raises NotFoundError for a version that is not there, ConfigError for a directory without
    a tokenizer.
    """
    from transformers import AutoTokenizer

    from cluster.registry import ModelStore

    directory = Path(text).expanduser()
    if not directory.is_dir():
        store = ModelStore.open()
        directory = store.local_dir(store.resolve(text))
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"`{text}` holds no tokenizer that can be loaded: {str(error).splitlines()[0]}",
            code="data.tokenizer",
            hint="Give a Hugging Face directory with a tokenizer.json, or a version such as smollm2@stable.",
        ) from None


def inspect(path: Path, tokenizer: Any | None, max_length: int | None) -> Inspection:
    """Read all of `path`; with a tokenizer encode it too. Raises what `encode_file` raises."""
    loaded = read_examples(path)
    if tokenizer is None:
        view = _in_characters(loaded.examples)
    else:
        view = _in_tokens(loaded.examples, tokenizer, max_length or sys.maxsize)
    dropped = [*loaded.dropped, *view.dropped]
    if not view.lengths:
        raise nothing_usable(path, dropped)
    return Inspection(path, loaded.format, fingerprint(path), count_reasons(dropped), view)


def _in_tokens(examples: Iterable[Example], tokenizer: Any, max_length: int) -> View:
    encoded: list[Encoded] = []
    dropped: list[Dropped] = []
    for item in encode_all(examples, tokenizer, max_length):
        if isinstance(item, Encoded):
            encoded.append(item)
        else:
            dropped.append(item)
    lengths = sorted(len(item.input_ids) for item in encoded)
    trained = sum(label != IGNORED for item in encoded for label in item.labels)
    first = encoded[0] if encoded else Encoded("", [], [])
    share = trained / sum(lengths) if lengths else None
    return View("tokens", lengths, dropped, share, first.id, _segments(first, tokenizer))


def _segments(item: Encoded, tokenizer: Any) -> list[Segment]:
    tokens = zip(item.input_ids, item.labels, strict=True)
    return [
        Segment(tokenizer.decode([token for token, _ in group]), trained)
        for trained, group in groupby(tokens, key=lambda token: token[1] != IGNORED)
    ]


def _in_characters(examples: Sequence[Example]) -> View:
    lengths = sorted(_characters(example) for example in examples)
    first = examples[0]
    segments = [
        segment
        for message in first.messages
        for segment in (
            Segment(f"{message.role}: ", False),
            Segment(message.content, message.role == "assistant"),
            Segment("\n", False),
        )
    ]
    if first.text is not None:
        segments = [Segment(first.text, True)]
    return View("characters", lengths, [], None, first.id, segments)


def _characters(example: Example) -> int:
    return len(example.text or "") + sum(len(message.content) for message in example.messages)


def histogram(lengths: Sequence[int]) -> list[Bin]:
    """Sorted `lengths` in at most ten bins of one width, empty ones included."""
    low, high = lengths[0], lengths[-1]
    width = max(1, -(-(high - low + 1) // _BINS))
    starts = range(low, high + 1, width)
    counts = Counter((length - low) // width for length in lengths)
    return [Bin(start, min(start + width - 1, high), counts[place]) for place, start in enumerate(starts)]

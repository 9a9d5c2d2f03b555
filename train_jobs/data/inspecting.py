"""What `linnet data inspect` reports: the format, lengths, a sample with its loss mask, what was dropped."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError
from train_jobs.data.formats import Format
from train_jobs.data.reading import detect_format, fingerprint, iter_examples, nothing_usable, usable
from train_jobs.data.records import Dropped, Encoded, EncodedPair, Example, Pair, count_reasons, ids_by_reason
from train_jobs.data.rendering import IGNORED, encode_all, encode_pairs
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


@dataclass
class View:
    """The usable rows as seen in one unit: their lengths, and one of them in full.

    A pair is as long as the longer of its sides, and its sample has both: `chosen` and `rejected`.
    `trained_share` is the part of all tokens that takes loss; None without a tokenizer.
    """

    unit: str
    lengths: list[int] = field(default_factory=list)
    trained_share: float | None = None
    sample_id: str = ""
    sample: dict[str, list[Segment]] = field(default_factory=dict)


@dataclass(frozen=True)
class Inspection:
    """A dataset's format and fingerprint, its usable rows, and which others were dropped, by reason."""

    path: Path
    format: Format
    fingerprint: str
    dropped: dict[str, list[str]]
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
    """Read all of `path`, a row at a time; with a tokenizer encode it too.

    Raises NotFoundError for a missing path, and ConfigError for what cannot be read or encoded, or
    when no row is left.
    """
    dropped: list[Dropped] = []
    found = detect_format(path)
    rows: Iterator[Example | Pair] = usable(iter_examples(path, found), dropped)
    if tokenizer is None:
        view = _in_characters(rows)
    else:
        encoded = _encode(rows, found, tokenizer, max_length or sys.maxsize)
        view = _in_tokens(usable(encoded, dropped), tokenizer)
    if not view.lengths:
        raise nothing_usable(path, count_reasons(dropped))
    view.lengths.sort()
    return Inspection(path, found, fingerprint(path), ids_by_reason(dropped), view)


def _encode(
    rows: Iterable[Any], found: Format, tokenizer: Any, max_length: int
) -> Iterator[Encoded | EncodedPair | Dropped]:
    encode = encode_pairs if found is Format.PREFERENCES else encode_all
    return encode(rows, tokenizer, max_length)


def _in_tokens(rows: Iterable[Encoded | EncodedPair], tokenizer: Any) -> View:
    view = View("tokens")
    tokens = trained = 0
    for row in rows:
        sides = _sides(row)
        if not view.lengths:
            view.sample_id = next(iter(sides.values())).id
            view.sample = {name: _segments(side, tokenizer) for name, side in sides.items()}
        view.lengths.append(max(len(side.input_ids) for side in sides.values()))
        tokens += sum(len(side.input_ids) for side in sides.values())
        trained += sum(label != IGNORED for side in sides.values() for label in side.labels)
    view.trained_share = trained / tokens if tokens else None
    return view


def _in_characters(rows: Iterable[Example | Pair]) -> View:
    view = View("characters")
    for row in rows:
        sides = _sides(row)
        if not view.lengths:
            view.sample_id = next(iter(sides.values())).id
            view.sample = {name: list(_plain_segments(side)) for name, side in sides.items()}
        view.lengths.append(max(_characters(side) for side in sides.values()))
    return view


def _sides(row: Any) -> dict[str, Any]:
    if isinstance(row, Pair | EncodedPair):
        return {"chosen": row.chosen, "rejected": row.rejected}
    return {"segments": row}


def _segments(item: Encoded, tokenizer: Any) -> list[Segment]:
    tokens = zip(item.input_ids, item.labels, strict=True)
    return [
        Segment(tokenizer.decode([token for token, _ in group]), trained)
        for trained, group in groupby(tokens, key=lambda token: token[1] != IGNORED)
    ]


def _plain_segments(example: Example) -> Iterator[Segment]:
    if example.text is not None:
        yield Segment(example.text, True)
    for place, message in enumerate(example.messages):
        yield Segment(f"{message.role}: ", False)
        yield Segment(message.content, message.role == "assistant" and place >= example.given)
        yield Segment("\n", False)


def _characters(example: Example) -> int:
    return len(example.text or "") + sum(len(message.content) for message in example.messages)


def histogram(lengths: Sequence[int]) -> list[Bin]:
    """Sorted `lengths` in at most ten bins of one width, empty ones included."""
    low, high = lengths[0], lengths[-1]
    width = max(1, -(-(high - low + 1) // _BINS))
    starts = range(low, high + 1, width)
    counts = Counter((length - low) // width for length in lengths)
    return [Bin(start, min(start + width - 1, high), counts[place]) for place, start in enumerate(starts)]

"""A held-out set: where it is read from, and which of its questions are asked in which round."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cluster.errors import ConfigError
from serve_apps.rollout.outside.config import QualityGate
from serve_apps.rollout.outside.quality.rows import Question, read_rows

LARGEST = 64 * 1024 * 1024
"""Bytes of a set; it is held in memory."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is asked in one round; `repeated` of the questions were asked in an earlier one."""

    questions: tuple[Question, ...]
    repeated: int


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A set that was read and checked; `sha256` is that of the file's bytes."""

    questions: tuple[Question, ...]
    sha256: str

    def part(self, round_: int, sample: int | None, seed: int) -> Part:
        """The questions of a round, counted from 0, in an order that `seed` decides.

        A round goes on where that before it ended, and begins anew only when all have been asked: greedy
        answers to the same questions are the same, so asking them again shows nothing new.
        """
        total = len(self.questions)
        size = min(sample or total, total)
        order = sorted(range(total), key=lambda index: _rank(seed, index))
        places = range(round_ * size, (round_ + 1) * size)
        asked = tuple(self.questions[order[place % total]] for place in places)
        return Part(asked, sum(place >= total for place in places))


def read_held_out(gate: QualityGate) -> HeldOut:
    """Read the whole of a gate's set.

    Raises NotFoundError and StorageError as storage does, and ConfigError for what cannot be used.
    """
    # Gateways read the gate's model and must not load pyarrow with it.
    from cluster.storage import Storage

    root, name = split_location(gate.data)
    storage = Storage(root)
    size = storage.size(name)
    if size > LARGEST:
        raise ConfigError(
            f"`{gate.data}` has {size} bytes; a held-out set has at most {LARGEST}.",
            code="rollout.held_out_size",
            hint="A few hundred questions tell two versions apart; `sample` asks a part of a set.",
        )
    data = storage.read_bytes(name)
    questions = read_rows(data, f"`{gate.data}`", gate.scorer, has_judge=gate.judge is not None)
    return HeldOut(questions, hashlib.sha256(data).hexdigest())


def split_location(location: str) -> tuple[str, str]:
    """The storage root and the file's name in it: `s3://b/p/set.jsonl?region=r` is `s3://b/p?region=r`."""
    path, mark, query = location.partition("?") if "://" in location else (location, "", "")
    folder, slash, name = path.rpartition("/")
    if not name or folder.endswith(":/"):
        raise ConfigError(
            f"`{location}` names no file.",
            code="rollout.held_out_location",
            hint="Write a path, such as /data/set.jsonl, or a storage URL, such as s3://bucket/set.jsonl.",
        )
    return (folder or slash or ".") + mark + query, name


def _rank(seed: int, index: int) -> bytes:
    """A place in an order that is the same in every release of Python."""
    return hashlib.blake2b(f"{seed}\x00{index}".encode(), digest_size=16).digest()

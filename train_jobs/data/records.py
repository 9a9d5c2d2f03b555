"""What a row of training data becomes, or why it did not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; `role` is one of ROLES."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One usable row: a conversation that ends in an answer, or plain `text` and no messages.

    `index` is the row's place in its file, from 0. No loss is taken on the first `given` messages.
    """

    messages: list[Message]
    id: str
    text: str | None = None
    index: int = 0
    file: str = ""
    given: int = 0

    def dropped(self, reason: str) -> Dropped:
        """The same row as one that is not used."""
        return Dropped(self.index, reason, self.file, self.id)


@dataclass(frozen=True, slots=True)
class Pair:
    """One usable row of preferences: two answers to the messages that are `given` in both."""

    chosen: Example
    rejected: Example

    @property
    def messages(self) -> list[Message]:
        """The conversation with the better answer."""
        return self.chosen.messages


@dataclass(frozen=True, slots=True)
class Dropped:
    """One row that is not used; `index` is its place in `file`, from 0."""

    index: int
    reason: str
    file: str = ""
    id: str = ""


class DroppedSink(Protocol):
    """What takes the rows that are not used: a list, or something that does not hold them all."""

    def append(self, row: Dropped, /) -> object:
        """Take one more."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands; its own `id`, else its file and index, is what it is called."""

    index: int
    file: str = ""
    id: str = ""

    def example(self, messages: list[Message], *, text: str | None = None, given: int = 0) -> Example:
        """The row as one that is used."""
        return Example(messages, self._name, text=text, index=self.index, file=self.file, given=given)

    def dropped(self, reason: str) -> Dropped:
        """The row as one that is not used."""
        return Dropped(self.index, reason, self.file, self._name)

    @property
    def _name(self) -> str:
        return self.id or f"{self.file}:{self.index}"


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as token ids; `labels` has the same length, with -100 where no loss is taken."""

    id: str
    input_ids: list[int]
    labels: list[int] = field(repr=False)


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """Both conversations of a pair as token ids; what they have in common takes no loss."""

    chosen: Encoded
    rejected: Encoded


def ids_by_reason(dropped: Iterable[Dropped]) -> dict[str, list[str]]:
    """What the dropped rows are called, by reason, the most frequent reason first."""
    found: dict[str, list[str]] = {}
    for row in dropped:
        found.setdefault(row.reason, []).append(row.id)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def count_reasons(dropped: Iterable[Dropped]) -> dict[str, int]:
    """Rows dropped by reason, the most frequent first."""
    return {reason: len(ids) for reason, ids in ids_by_reason(dropped).items()}

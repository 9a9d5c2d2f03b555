"""What a row of training data becomes, or why it did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; `role` is one of ROLES."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One usable row: a conversation that ends in an answer, or plain `text` and no messages.

    `index` is the row's place in its file, from 0.
    """

    messages: list[Message]
    id: str
    text: str | None = None
    index: int = 0
    file: str = ""


@dataclass(frozen=True, slots=True)
class Dropped:
    """One row that is not used; `index` is its place in `file`, from 0."""

    index: int
    reason: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as token ids; `labels` has the same length, with -100 where no loss is taken."""

    id: str
    input_ids: list[int]
    labels: list[int] = field(repr=False)


def count_reasons(dropped: Iterable[Dropped]) -> dict[str, int]:
    """Rows dropped by reason, the most frequent first."""
    return dict(Counter(row.reason for row in dropped).most_common())

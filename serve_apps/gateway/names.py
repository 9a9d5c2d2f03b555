"""What `model` may say in a request: `model`, `model:version`, and either with `/task`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class ModelName:
    """The parts of such a name; `version` is empty and `task` None where they are left out."""

    model: str
    version: str
    task: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a name apart; whether there is such a thing is for others to say."""
        versioned, slash, task = text.partition("/")
        model, _, version = versioned.partition(":")
        return cls(model, version, task if slash else None)

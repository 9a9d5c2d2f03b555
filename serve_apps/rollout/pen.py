"""How things are drawn on a terminal: colours where it has them, plain letters where it has no others."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from enum import StrEnum


class Tone(StrEnum):
    """What a piece of text means; the values are codes of ANSI terminals."""

    GOOD = "32"
    BAD = "31;1"
    OPEN = "33"
    PRESENT = "36;1"
    FAINT = "2"
    STRONG = "1"


_PLAIN = str.maketrans(
    {
        "├": "|",
        "│": "|",
        "└": "`",
        "─": "-",
        "✔": "+",
        "✖": "x",
        "▶": ">",
        "◌": ".",
        "≈": "~",
        "…": "...",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pen:
    """`colour`: whether tones are seen; `encoding`: what the text must fit."""

    colour: bool = False
    encoding: str = "utf-8"

    def paint(self, text: str, tone: Tone) -> str:
        """`text` in a tone."""
        return f"\x1b[{tone}m{text}\x1b[0m" if self.colour and text else text

    def fit(self, text: str) -> str:
        """`text` with signs that the terminal has."""
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            return text.translate(_PLAIN).encode(self.encoding, "replace").decode(self.encoding)
        return text


PLAIN = Pen()


def pen_for_stdout() -> Pen:
    """Colour on a terminal alone, and not where `NO_COLOR` is set (no-color.org)."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Pen(colour=colour, encoding=sys.stdout.encoding or "ascii")

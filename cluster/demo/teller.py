"""What the demo says: colours and a line that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, RenderableType
from rich.markup import escape

_PLAIN_PERIOD_S = 15.0


class Moving(Protocol):
    """A line that tells how far something is."""

    def __call__(self, line: str) -> None:
        """Replace the line."""


class Teller:
    """Tells what is done and what came out, with the time since the start."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(soft_wrap=True, highlight=False)
        self._began = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._began

    def step(self, number: int, of: int, title: str) -> None:
        """The heading of a step."""
        self._console.print()
        self._console.print(f"[bold cyan]{self._clock()}  {number}/{of}  {escape(title)}[/]")

    def command(self, arguments: Sequence[str]) -> None:
        """A command that is about to run, as a person would type it."""
        self._console.print(f"  [green]$[/] {escape(shlex.join(arguments))}")

    def say(self, line: str) -> None:
        """What came out."""
        self._console.print(f"  {escape(line)}")

    def whisper(self, line: str) -> None:
        """What a command says while it works."""
        self._console.print(f"    [dim]{escape(line)}[/]")

    def show(self, what: RenderableType) -> None:
        """A table."""
        self._console.print(what, soft_wrap=False)

    @contextmanager
    def moving(self, first: str) -> Iterator[Moving]:
        """A line that is rewritten in place; without a terminal a plain one every 15 seconds."""
        if self._console.is_terminal:
            with self._console.status(f"  {escape(first)}") as status:
                yield lambda line: status.update(f"  {escape(line)}")
            return
        yield _Slowly(self)

    def _clock(self) -> str:
        minutes, seconds = divmod(int(self.elapsed_s), 60)
        return f"{minutes:02d}:{seconds:02d}"


class _Slowly:
    def __init__(self, teller: Teller) -> None:
        self._teller, self._told, self._last = teller, time.monotonic(), ""

    def __call__(self, line: str) -> None:
        if line != self._last and time.monotonic() - self._told >= _PLAIN_PERIOD_S:
            self._teller.whisper(line)
            self._told, self._last = time.monotonic(), line

"""Threads that do one thing again and again for as long as a block lasts."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self


@dataclass(kw_only=True)
class Repeating(ABC):
    """`callers` threads, each of which rests for `pause_s` after every time."""

    callers: int = 4
    pause_s: float = 0.0

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=(n,)) for n in range(self.callers)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @abstractmethod
    def once(self, number: int, count: int) -> None:
        """What thread `number` does the `count`th time, from 1."""

    def _repeat(self, number: int) -> None:
        count = 0
        while not self._stop.wait(self.pause_s if count else 0):
            count += 1
            self.once(number, count)

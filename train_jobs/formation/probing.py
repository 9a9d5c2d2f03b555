"""Whether anything on a silent worker's node answers, asked beside the coordinator's own work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Probes:
    """One question a silent node at a time; `answers` is asked in a thread and may take a second."""

    def __init__(self, answers: Callable[[str], bool], own_node: str) -> None:
        self._answers, self._own_node = answers, own_node
        self._asked: dict[str, asyncio.Task[bool]] = {}
        self._silent: set[str] = set()

    def look(self, silent: set[str]) -> set[str]:
        """Ask the nodes whose workers are `silent` again; those that did not answer when last asked."""
        for node in [node for node, task in self._asked.items() if task.done()]:
            task = self._asked.pop(node)
            # A question that could not be asked is no answer, and no silence either.
            is_silent = task.exception() is None and not task.result()
            (self._silent.add if is_silent else self._silent.discard)(node)
        self._silent &= silent
        for node in silent - self._asked.keys() - {self._own_node}:
            self._asked[node] = asyncio.create_task(asyncio.to_thread(self._answers, node))
        return set(self._silent)

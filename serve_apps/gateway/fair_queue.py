"""A bounded waiting line that serves its lanes in turn."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class FairQueue(Generic[ItemT]):
    """First in, first out within a lane; round-robin over the lanes.

    When it is full, a newcomer takes the place of the newest item in the longest lane, unless
    its own lane would become as long: many items of one lane never keep out another lane.
    Items are hashable and wait once.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._size = 0
        self._lanes: OrderedDict[str, OrderedDict[ItemT, None]] = OrderedDict()

    def __len__(self) -> int:
        return self._size

    def push(self, lane: str, item: ItemT) -> ItemT | None:
        """Add `item`; returns the item for which there is no place, which may be `item` itself."""
        evicted: ItemT | None = None
        if self._size >= self._bound:
            longest, waiting = max(self._lanes.items(), key=_length, default=("", OrderedDict()))
            if len(self._lanes.get(lane, ())) + 1 >= len(waiting):
                return item
            evicted = next(reversed(waiting))
            self.discard(longest, evicted)
        self._lanes.setdefault(lane, OrderedDict())[item] = None
        self._size += 1
        return evicted

    def pop(self) -> ItemT:
        """Take the oldest item of the lane whose turn it is; raises KeyError when nothing waits."""
        lane = next(iter(self._lanes), "")
        waiting = self._lanes[lane]
        item, _ = waiting.popitem(last=False)
        self._size -= 1
        self._lanes.move_to_end(lane)
        if not waiting:
            del self._lanes[lane]
        return item

    def discard(self, lane: str, item: ItemT) -> None:
        """Take `item` out wherever it stands; nothing happens when it does not wait."""
        waiting = self._lanes.get(lane)
        if waiting is None or item not in waiting:
            return
        del waiting[item]
        self._size -= 1
        if not waiting:
            del self._lanes[lane]


def _length(lane: tuple[str, OrderedDict[ItemT, None]]) -> int:
    return len(lane[1])

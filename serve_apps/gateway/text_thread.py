"""The thread in which texts are looked at, so that no caller waits for it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

WAITING = 256
"""Texts that may wait."""

_STOPPED_WITHIN_S = 5.0

_log = logging.getLogger(__name__)


class TextThread:
    """Does one piece of work after the other; it starts with the first."""

    def __init__(self, waiting: int = WAITING) -> None:
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(waiting)
        self._thread: threading.Thread | None = None

    def offer(self, work: Callable[[], None]) -> bool:
        """Do it soon; False where too much waits, and it is dropped. Call from one thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="linnet-text-checks", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(work)
        except queue.Full:
            return False
        return True

    def stop(self) -> None:
        """End after what waits; a second call changes nothing. May block for seconds."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join(_STOPPED_WITHIN_S)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except Exception:
                _log.exception("a text could not be looked at")

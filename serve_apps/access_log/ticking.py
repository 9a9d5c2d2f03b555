"""A thread that does one piece of work again and again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_AFTER_A_FAULT_S = 10.0

_log = logging.getLogger(__name__)


class Ticking:
    """Calls `work` until it is stopped, and once more then; `work` says how many seconds to pause."""

    def __init__(self, name: str, work: Callable[[], float]) -> None:
        self._work = work
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started = False

    def start(self) -> None:
        """Begin; a second call changes nothing."""
        if not self._started:
            self._started = True
            self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Let it end; what takes longer is left behind and ends with the process."""
        self._stopping.set()
        if self._started:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            pause_s = self._once()
        self._once()

    def _once(self) -> float:
        try:
            return self._work()
        except Exception:
            _log.exception("%s goes on after a fault", self._thread.name)
            return _AFTER_A_FAULT_S

"""When complete spools are to become Parquet on the storage root, and what happens where they cannot."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

from cluster.errors import LinnetError
from serve_apps.access_log import spool

_LOOK_S = 1.0
_LONGEST_PAUSE_S = 60.0

_log = logging.getLogger(__name__)


class Settler:
    """Has `work` done when a spool of this machine is complete, and when a day begins.

    A spool is complete when no living gateway writes it; those of dead ones are too.
    """

    def __init__(self, directory: Path, work: Callable[[], None]) -> None:
        self._directory = directory
        self._work = work
        self._pause_s = _LOOK_S
        self._done_on = _today()

    def settle(self) -> float:
        """Returns the pause until the next time; it grows while the storage refuses."""
        today = _today()
        try:
            if self._done_on != today or spool.any_complete(self._directory):
                self._work()
        except (LinnetError, OSError) as error:
            if self._pause_s == _LOOK_S:
                _log.warning("the access log stays on the local disk: %s", error)
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        else:
            self._done_on = today
            self._pause_s = _LOOK_S
        return self._pause_s


def _today() -> date:
    return datetime.now(UTC).date()

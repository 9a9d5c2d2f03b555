"""From complete spools to Parquet on the storage root."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cluster.errors import LinnetError
from cluster.storage import Storage
from serve_apps.access_log import files, spool

_LOOK_S = 1.0
_LONGEST_PAUSE_S = 60.0

_log = logging.getLogger(__name__)


class Settler:
    """Settles every spool of this machine that no living gateway writes, those of dead ones too."""

    def __init__(self, directory: Path, storage: Storage, keep_days: int) -> None:
        self._directory = directory
        self._storage = storage
        self._keep_days = keep_days
        self._pause_s = _LOOK_S
        self._cleaned_on = ""

    def settle(self) -> float:
        """Returns the pause until the next time; it grows while the storage refuses."""
        try:
            for name, lines in spool.complete(self._directory):
                files.store(self._storage, name, lines)
            self._remove_old_days()
        except (LinnetError, OSError) as error:
            if self._pause_s == _LOOK_S:
                _log.warning("the access log stays on the local disk: %s", error)
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        else:
            self._pause_s = _LOOK_S
        return self._pause_s

    def _remove_old_days(self) -> None:
        today = datetime.now(UTC).date()
        if self._cleaned_on != str(today):
            files.remove_days_before(self._storage, today - timedelta(days=self._keep_days))
            self._cleaned_on = str(today)

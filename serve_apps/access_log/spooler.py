"""From the queue in memory to the spool on the local disk."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
import uuid
from collections import deque
from pathlib import Path

import msgspec

from serve_apps.access_log.config import AccessLogConfig
from serve_apps.access_log.redaction import Redaction
from serve_apps.access_log.spool import Spool
from serve_apps.gateway.observation import Observation

_BATCH = 500
_ROTATE_BYTES = 32 * 1024 * 1024
"""Size at which a spool is complete, however few its rows: it is read into memory as a whole."""

LEFT_FREE = 64 * 1024 * 1024
"""Bytes of the local disk that the log never takes: the state database may live on the same."""

_log = logging.getLogger(__name__)


class Spooler:
    """Belongs to one thread; only the queue is shared."""

    def __init__(self, queue: deque[Observation], directory: Path, config: AccessLogConfig) -> None:
        self._queue = queue
        self._directory = directory
        self._config = config
        self._redaction = Redaction(config.redact, config.max_text_bytes)
        self._encoder = msgspec.json.Encoder()
        self._gateway = uuid.uuid4().hex[:12]
        self._sequence = 0
        self._spool: Spool | None = None
        self._rows = 0
        self._opened = 0.0
        self._batch: list[Observation] = []
        self._refused = False

    def flush(self) -> float:
        """Write all rows that wait; what the disk refuses waits on. Returns the pause until the next time."""
        try:
            while self._batch or self._queue:
                self._write_batch()
            self._refused = False
        except OSError as error:
            if not self._refused:
                _log.warning("rows of the access log wait in memory: %s", error)
            self._refused = True
        if self._spool is not None and time.monotonic() - self._opened >= self._config.rotate_s:
            self.close()
        return self._config.flush_s

    def close(self) -> None:
        """The spool is complete; the next row begins another."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _write_batch(self) -> None:
        while self._queue and len(self._batch) < _BATCH:
            self._batch.append(self._redacted(self._queue.popleft()))
        _require_room(self._directory)
        spool = self._open()
        spool.append(self._encoder.encode_lines(self._batch))
        self._rows += len(self._batch)
        self._batch = []
        if self._rows >= self._config.rotate_rows or spool.size >= _ROTATE_BYTES:
            self.close()

    def _open(self) -> Spool:
        if self._spool is None:
            self._spool = Spool(self._directory, f"{self._gateway}-{self._sequence:06d}")
            self._sequence += 1
            self._rows, self._opened = 0, time.monotonic()
        return self._spool

    def _redacted(self, row: Observation) -> Observation:
        if row.prompt is None and row.answer is None:
            return row
        prompt = None if row.prompt is None else self._redaction.body(row.prompt)
        answer = None if row.answer is None else self._redaction.text(row.answer)
        return msgspec.structs.replace(row, prompt=prompt, answer=answer)


def _require_room(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if shutil.disk_usage(directory).free < LEFT_FREE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))

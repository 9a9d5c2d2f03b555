"""The access log as the gateway sees it: a row is added in a microsecond, two threads do the rest."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from cluster.config import Settings
from serve_apps.access_log.config import AccessLogConfig, Prompts
from serve_apps.access_log.redaction import MARGIN
from serve_apps.access_log.settler import Settler
from serve_apps.access_log.settling import Order, settle_apart
from serve_apps.access_log.spool import spool_dir
from serve_apps.access_log.spooler import Spooler
from serve_apps.access_log.ticking import Ticking
from serve_apps.gateway.observation import Observation

QUEUE_ROWS = 10_000
"""Rows that may wait in memory, where the local disk takes none."""

_SPOOLED_WITHIN_S = 5.0
_SETTLED_WITHIN_S = 10.0


class AccessLog:
    """Rows go to a queue, from there to the spool, from there to Parquet.

    The last two have a thread each, because a storage that hangs must not keep rows in memory.
    `settle` makes the Parquet.
    """

    def __init__(
        self,
        config: AccessLogConfig,
        settings: Settings,
        settle: Callable[[Order], None] = settle_apart,
    ) -> None:
        self._config = config
        self._queue: deque[Observation] = deque(maxlen=QUEUE_ROWS)
        directory = spool_dir(settings)
        self._spooler = Spooler(self._queue, directory, config)
        order = Order(directory=directory, root=settings.root, keep_days=config.keep_days)
        settler = Settler(directory, lambda: settle(order))
        self._spooling = Ticking("linnet-access-log-spool", self._spooler.flush)
        self._settling = Ticking("linnet-access-log-settle", settler.settle)

    def start(self) -> None:
        """Begin to write, and settle what dead gateways left here; a second call changes nothing."""
        self._spooling.start()
        self._settling.start()

    def stop(self) -> None:
        """Write what waits. What the storage does not take within seconds is left for the next gateway."""
        self._spooling.stop(_SPOOLED_WITHIN_S)
        self._spooler.close()
        self._settling.stop(_SETTLED_WITHIN_S)

    def add(self, row: Observation) -> bool:
        """Log a request; returns whether an older row had to give way and is lost."""
        full = len(self._queue) == QUEUE_ROWS
        self._queue.append(row)
        return full

    def text_bytes(self) -> int:
        """How much the next request should keep of its prompt and its answer; 0 for nothing."""
        config = self._config
        if config.prompts is Prompts.NONE:
            return 0
        if config.prompts is Prompts.SAMPLED and random.random() >= config.sample_rate:
            return 0
        return config.max_text_bytes + MARGIN

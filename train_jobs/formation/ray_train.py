"""The one place that leans on what Ray Train keeps to itself.

Ray Train replaces a single worker, and leaves the others their processes, only for a backend
with replica groups; TorchftConfig is the one that it ships. This is that mechanism with groups of one and
without torchft's lighthouse: who trains with whom is our coordinator's word, because a constant
global batch and exact sums need it (docs/decisions/formations.md). Holds for Ray 2.60.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

__all__ = ["DataParallelTrainer", "FormationConfig"]

_LOG = logging.getLogger("train_jobs")
_TRIES = 10


def keep_survivors(worker_group: Any) -> None:
    """Let a replacement that fails be tried again at the controller's next look at its group.

    Ray's controller takes it for a failure of its own and ends all workers, also when it failed because
    another worker died meanwhile. After ten failures in a row of one group it may.
    """
    replace, failed = worker_group.replace_replica_group, Counter[int]()

    def try_to_replace(index: int) -> None:
        try:
            replace(index)
        except Exception:
            failed[index] += 1
            if failed[index] >= _TRIES:
                raise
            _LOG.warning("worker %d could not be replaced yet", index, exc_info=True)
        else:
            failed.pop(index, None)

    worker_group.replace_replica_group = try_to_replace


class _FormationBackend(Backend):
    """Nothing to set up and nothing to take down: workers meet by themselves."""

    has_replica_groups = True
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Workers form their group when the coordinator says so; a single new one starts like all."""
        if hasattr(worker_group, "replace_replica_group"):
            keep_survivors(worker_group)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Ray ends the processes next, and their sockets with them."""


class FormationConfig(BackendConfig):
    """Workers that are replaced one by one."""

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray Train asks a configuration for."""
        return _FormationBackend

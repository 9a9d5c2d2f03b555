"""The one place that leans on what Ray Train keeps to itself.

Ray Train replaces a single worker, and leaves the others their processes, only for a backend
with replica groups; TorchftConfig is the one that it ships. This is that mechanism with groups of one and
without torchft's lighthouse: who trains with whom is our coordinator's word, because a constant
global batch and exact sums need it (docs/decisions/formations.md). Holds for Ray 2.60.
"""

from __future__ import annotations

from typing import Any

from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

__all__ = ["DataParallelTrainer", "FormationConfig"]


class _FormationBackend(Backend):
    """Nothing to set up and nothing to take down: workers meet by themselves."""

    has_replica_groups = True
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Workers form their group when the coordinator says so."""

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Ray ends the processes next, and their sockets with them."""


class FormationConfig(BackendConfig):
    """Workers that are replaced one by one."""

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray Train asks a configuration for."""
        return _FormationBackend

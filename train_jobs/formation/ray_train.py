"""The one place that leans on what Ray Train keeps to itself.

Ray Train replaces a single worker, and leaves the others their processes, only for a backend
with replica groups; TorchftConfig is the one that it ships. This is that mechanism with groups of one and
without torchft's lighthouse: who trains with whom is our coordinator's word, because a constant
global batch and exact sums need it (docs/decisions/formations.md). Holds for Ray 2.60.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from train_jobs.formation import ray_signals

__all__ = ["DataParallelTrainer", "FormationConfig"]

_LOG = logging.getLogger("train_jobs")
_TRIES = 10
_LOOK_S = 1.0


def keep_survivors(
    worker_group: Any,
    end_if_over: Callable[[], object],
    has_place: Callable[[int], bool],
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Let a replacement that fails, or has no place yet, be tried again at the controller's next look.

    Ray's controller takes a failure for one of its own and ends all workers, also when a replacement failed
    because another worker died meanwhile. After ten failures in a row of one group it may. Without a place
    it would wait for one, deaf to everything else; and it would wait for ever once the run is over.
    """
    replace, failed = worker_group.replace_replica_group, Counter[int]()

    def try_to_replace(index: int) -> None:
        end_if_over()
        if not has_place(index):
            # Ray asks something of every worker that it has not given up before it replaces another.
            worker_group.get_replica_groups()[index].shutdown()
            # The controller looks again at once, for as long as a worker is missing.
            sleep(_LOOK_S)
            return
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


def _has_place(worker_group: Any, index: int) -> bool:
    """Whether the CPUs that a worker's place in the placement group stands for are on a node that answers.

    The place of a lost node has none until another node has room, and looks for some seconds as if nothing
    were amiss. The places of others are good meanwhile.
    """
    from ray.util import placement_group_table

    group = worker_group.get_worker_group_state().placement_group_handle.placement_group
    bundle = worker_group.get_workers()[index].placement_group_bundle_index
    return ray_signals.node_answers(placement_group_table(group)["bundles_to_node_id"][bundle])


class _FormationBackend(Backend):
    """Nothing to set up and nothing to take down: workers meet by themselves."""

    has_replica_groups = True
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: FormationConfig) -> None:
        """Workers form their group when the coordinator says so; a single new one starts like all."""
        if hasattr(worker_group, "replace_replica_group"):
            keep_survivors(
                worker_group, backend_config.end_if_over, lambda index: _has_place(worker_group, index)
            )

    def on_shutdown(self, worker_group: Any, backend_config: FormationConfig) -> None:
        """Ray ends the processes next, and their sockets with them."""


@dataclass
class FormationConfig(BackendConfig):
    """Workers that are replaced one by one for as long as the coordinator's run goes on."""

    coordinator: Any

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray Train asks a configuration for."""
        return _FormationBackend

    def end_if_over(self) -> None:
        """As Ray's controller, end when the run has, or its coordinator: the driver sees to the rest.

        An error would not do it: the controller would start all workers anew.
        """
        import ray

        with contextlib.suppress(ray.exceptions.RayActorError):
            if ray.get(self.coordinator.outcome.remote()) is None:
                return
        ray.kill(ray.get_runtime_context().current_actor)

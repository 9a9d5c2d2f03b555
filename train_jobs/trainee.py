"""What is trained in one process: model, optimizer, objective and the step that they are at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.config import Settings
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from train_jobs import model as models
from train_jobs.formation.group import Group
from train_jobs.inputs import base_identity
from train_jobs.layout import Layout, Waiting, Whole
from train_jobs.loop import Loop
from train_jobs.objectives import Objective, Samples, make_objective
from train_jobs.optimizers import fill_state, make_optimizer
from train_jobs.spec import FaultTolerance, TrainSpec
from train_jobs.state import Snapshots


class Trainee:
    """Made warm once in the life of a process; its state is replaced in place after that.

    `is_over` tells whether the formation was dissolved.
    """

    model: Any
    layout: Layout
    objective: Objective
    loop: Loop
    snapshots: Snapshots
    reference: Any

    def __init__(
        self,
        spec: TrainSpec,
        settings: Settings,
        base: VersionRef,
        dataset: Samples,
        is_over: Callable[[], bool],
    ) -> None:
        self.spec, self.base, self.dataset = spec, base, dataset
        self._store = ModelStore.open(settings)
        self.base_sha256 = base_identity(self._store.manifest(base))
        self._is_over = is_over
        self._divisor = 1
        self._rank: int | None = None
        self.step = 0

    def warm(self) -> None:
        """Load the base and build everything on it, at step 0; a shard is cut from it by `take_part`."""
        directory = self._store.local_dir(self.base)
        self.model = models.build(self.spec, directory, str(self.base))
        self.reference = models.reference(self.spec, directory)
        self.objective = make_objective(self.spec, self.dataset, self.model, self.reference)
        self.step = 0
        self._rank = None
        if self.spec.is_sharded:
            # It takes seconds, for which no formation is to wait.
            from train_jobs import sharding  # noqa: F401
        else:
            self._equip(Whole(self.model, make_optimizer(self.spec, models.trainable(self.model))))

    def take_part(self, group: Group, waiting: Waiting) -> None:
        """Train with these workers from now on, with this rank's shard, for which all may be built anew."""
        if self.spec.is_sharded and self._rank != group.rank:
            if self._rank is not None:
                self.warm()
            from train_jobs.sharding import Sharded

            self._equip(Sharded(self.spec, self.model, group.rank, group.size))
        self._rank, self._joined = group.rank, (group, waiting)
        self.layout.join(group, waiting)

    def begin_anew(self) -> None:
        """Forget what was trained."""
        self.warm()
        self.take_part(*self._joined)

    def _equip(self, layout: Layout) -> None:
        self.layout = layout
        fill_state(layout.optimizer)
        self.loop = Loop(self.spec, layout, self.objective, len(self.dataset))
        if self.spec.fault_tolerance is FaultTolerance.RESTART:
            self.loop.leave_when(self._is_over)
        self.cut_microbatches(self._divisor)
        self.snapshots = Snapshots(layout)

    def cut_microbatches(self, divisor: int) -> None:
        """Compute microbatches in so many parts from now on."""
        self._divisor = self.loop.microbatch_divisor = divisor

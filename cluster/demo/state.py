"""What the steps of the demo hand on to each other, and how all that it started is ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster import runtime
from cluster.config import Settings
from cluster.demo.client import Answer, BackgroundClient
from cluster.demo.commands import Child, Commands
from cluster.demo.figures import LossPoint, Mark, Phase, SplitFigures, TrainFigures
from cluster.demo.teller import Teller
from cluster.errors import LinnetError
from cluster.traffic import TrafficPolicy

_DROP_AFTER_S = 1.0


@dataclass(eq=False)
class Demo:
    """Facts gathered so far; those without a default are set by the step that finds them out.

    `measured` holds the answers to questions that the steps themselves asked; with the background
    client's they are all the requests that count.
    """

    settings: Settings
    teller: Teller
    commands: Commands
    started_at: float = field(default_factory=time.time)

    cluster_begun: bool = False
    foreign_guard: int | None = None
    guard_pid: int = field(init=False)
    serve_url: str = field(init=False)

    base: str = ""
    tuned: str = ""
    stable: str | None = None
    rollout_active: bool = False
    data: Path = field(init=False)

    run: str = ""
    training: Child = field(init=False)
    kills: list[Mark] = field(default_factory=list)
    workers: int = 0
    killed_after_step: int = 0
    losses: list[LossPoint] = field(default_factory=list)
    train: TrainFigures = field(init=False)

    client: BackgroundClient | None = None
    measured: list[Answer] = field(default_factory=list)
    policy: TrafficPolicy = field(init=False)
    marks: list[Mark] = field(default_factory=list)
    split: SplitFigures = field(init=False)
    accuracy: dict[str, float] = field(default_factory=dict)
    snippets: int = 0
    rollback_s: float = 0.0
    phases: list[Phase] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        """Where the demo keeps its files."""
        return self.settings.home / "demo"

    def answers(self) -> Sequence[Answer]:
        """Every request that counts, in no order."""
        return [*(self.client.answers if self.client else ()), *self.measured]

    def owns_cluster(self) -> bool:
        """Whether the cluster that runs now is one that the demo started."""
        found = runtime.current(self.settings)
        return self.cluster_begun and found is not None and found.guard_pid != self.foreign_guard

    def tidy(self) -> str:
        """End the client, the commands and the cluster that the demo started, and nothing else.

        Returns why the cluster could not be ended, or an empty string.
        """
        if self.client is not None:
            self.client.stop(_DROP_AFTER_S)
        self.commands.stop_all()
        try:
            if self.owns_cluster():
                self.commands.linnet("down")
        except LinnetError as error:
            return error.message
        return ""

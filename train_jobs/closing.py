"""What comes after a run whose result is rolled out: `linnet train run … --then-rollout canary.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import closed_loop
from cluster.cli import output
from cluster.closed_loop import ThenRollout
from cluster.config import Settings
from cluster.errors import ConfigError
from cluster.manifest import Lineage
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from train_jobs.driver import RunResult
from train_jobs.planning import Plan
from train_jobs.spec import TrainSpec


@dataclass(frozen=True)
class Closing:
    """What becomes of `candidate`, the run's full version, once it is there."""

    candidate: VersionRef
    then: ThenRollout
    waits: bool

    def plan(self) -> list[str]:
        """What is left to be done, in words; empty for nothing."""
        return self.then.plan(self.candidate)

    def carry_out(self, result: RunResult, settings: Settings, *, as_json: bool) -> None:
        """Roll the version out, wait if that is wanted, and show what was done."""
        lineage = ModelStore.open(settings).manifest(self.candidate).lineage
        output.progress(f"{self.candidate}: {_evaluated(lineage)}")
        begun = self.then.carry_out(self.candidate, run=result.run, say=output.progress)
        ended = self.then.wait(self.candidate, begun.rollout, output.progress) if self.waits else None
        output.emit_mutation(
            target=f"run/{result.run}",
            applied=result.trained or begun.deployed or begun.begun,
            dry_run=False,
            detail={**result.model_dump(), "then_rollout": self._detail(lineage, begun, ended)},
            as_json=as_json,
            sentence=f"{self.candidate} of the run {result.run}: rollout {begun.rollout} is "
            f"{ended['phase'] if ended else begun.phase}.",
            next_command=f"linnet models show {self.candidate}"
            if ended
            else f"linnet rollout status {self.candidate.model} --watch",
        )

    def _detail(
        self, lineage: Lineage | None, begun: closed_loop.Begun, ended: dict[str, Any] | None
    ) -> dict[str, Any]:
        came_from = lineage.model_dump() if lineage else None
        return {"version": str(self.candidate), "lineage": came_from, **begun.model_dump(), "ended": ended}


def prepare(policy: Path, wait: str | None, todo: Plan, settings: Settings) -> Closing:
    """Raises ConfigError for a run whose result must not be rolled out by itself, before it is trained."""
    candidate = VersionRef(model=todo.base.model, version=_version(todo.spec))
    _require_evaluated(todo.spec)
    then = closed_loop.then_rollout(policy, settings, wait)
    return Closing(candidate, then, waits=wait is not None)


def _version(spec: TrainSpec) -> str:
    if spec.publish is None or spec.publish.version is None:
        raise ConfigError(
            f"The run `{spec.run}` publishes no full version, which is what is rolled out.",
            code="train.no_version",
            hint="Name one in the spec: publish: {version: v2}.",
        )
    return spec.publish.version


def _require_evaluated(spec: TrainSpec) -> None:
    if not spec.load_best_model_at_end:
        raise ConfigError(
            f"The run `{spec.run}` does not choose its best checkpoint: nothing that was not evaluated is "
            "rolled out by itself.",
            code="train.not_evaluated",
            hint="Set `load_best_model_at_end: true`, `eval_steps`, and `data.validation`.",
        )


def _evaluated(lineage: Lineage | None) -> str:
    if lineage is None:
        return "of unknown origin"
    measured = ", ".join(f"{name} {value:.4g}" for name, value in sorted(lineage.metrics.items()))
    return f"the best checkpoint of the run {lineage.run} is that of step {lineage.step} ({measured})"

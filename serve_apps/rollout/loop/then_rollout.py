"""Deploys what a run has published, begins its rollout, and waits for it.

Nothing is remembered beside what Serve, the store and the state database hold: each step looks whether it
is done, so the whole may be cut short anywhere and repeated.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from sqlalchemy import select

from cluster.closed_loop import Begun, Say
from cluster.config import Settings
from cluster.errors import ConflictError, NotFoundError
from cluster.refs import STABLE, VersionRef
from cluster.registry import ModelStore
from cluster.state import events
from cluster.state.tables import RolloutRow
from serve_apps.rollout import checking, waiting
from serve_apps.rollout.loop import serve_config
from serve_apps.rollout.loop.serve_client import RayServe, Serve
from serve_apps.rollout.outside.placeholders import Names
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.verbs.command_line import read_policy, seconds


class ThenRollout:
    """Provides `cluster.closed_loop.ThenRollout`."""

    def __init__(
        self, policy: Path, settings: Settings, *, wait: str | None = None, serve: Serve | None = None
    ) -> None:
        self._policy = policy
        self._timeout_s = seconds(wait) if wait is not None else 0.0
        self._store = ModelStore.open(settings)
        self._serve = serve or RayServe(settings)
        read_policy(policy)

    def plan(self, candidate: VersionRef) -> list[str]:
        """What is left to be done, in words; empty where the rollout has begun."""
        spec = read_policy(self._policy, candidate.version)
        if self._begun(candidate, spec) is not None:
            return []
        stable = self._stable(candidate)
        checking.check(spec, Names(candidate.model, candidate.version, stable.version), os.environ)
        found = self._serve.config()
        lines = []
        if serve_config.application_of(found, candidate) is None:
            self._wanted(found, candidate, stable)
            lines.append(f"deploy {candidate} as {stable} is deployed")
        if not serve_config.has_controller(found):
            lines.append("deploy the controller of rollouts")
        weights = ", ".join("approval" if step.approve else f"{step.weight:g}%" for step in spec.steps)
        return [*lines, f"begin a rollout of {candidate} by {self._policy}: {weights}"]

    def carry_out(self, candidate: VersionRef, *, run: str, say: Say) -> Begun:
        """Deploy a published version beside the stable one and begin its rollout.

        Raises ConflictError while another rollout is active, and what `plan` raises.
        """
        spec = read_policy(self._policy, candidate.version)
        found = self._begun(candidate, spec)
        if found is not None:
            say(f"{candidate}: rollout {found.id} was begun before, and is {found.phase}")
            return Begun(rollout=found.id, phase=found.phase, deployed=False, begun=False)
        stable = self._stable(candidate)
        rollouts = Rollouts(self._store)
        # Refused before anything is deployed for it.
        rollouts.plan_begin(candidate.model, candidate.version, spec)
        deployed = self._deploy(candidate, stable, run, say)
        plan = rollouts.plan_begin(candidate.model, candidate.version, spec)
        applied = rollouts.apply(plan, reason=f"the run {run} published it; policy {self._policy.name}")
        say(applied.decision.sentence)
        phase = applied.decision.rollout.phase.value
        return Begun(rollout=applied.rollout_id, phase=phase, deployed=deployed, begun=True)

    def wait(self, candidate: VersionRef, rollout: int, say: Say) -> dict[str, Any]:
        """How the rollout ended; raises as `waiting.require_promoted` and `waiting.wait` do."""
        seen = waiting.wait(
            self._store.database,
            candidate.model,
            rollout,
            timeout_s=self._timeout_s,
            tell=lambda at, sentence: say(f"{at:%H:%M:%S}  {sentence}"),
            clock=time.monotonic,
            sleep=time.sleep,
        )
        waiting.require_promoted(seen)
        return seen.result

    def _begun(self, candidate: VersionRef, spec: RolloutSpec) -> RolloutRow | None:
        """Its rollout by this very policy, the newest one."""
        query = select(RolloutRow).where(
            RolloutRow.model == candidate.model,
            RolloutRow.candidate == candidate.version,
            RolloutRow.spec_sha256 == spec.sha256(),
        )
        with self._store.database.snapshot() as session:
            return session.scalars(query.order_by(RolloutRow.id.desc()).limit(1)).first()

    def _stable(self, candidate: VersionRef) -> VersionRef:
        stable = self._store.aliases(candidate.model).get(STABLE)
        if stable is None:
            raise NotFoundError(
                f"`{candidate.model}` has no stable version to roll out beside.",
                code="rollout.no_stable",
                hint=f"Name one: linnet models alias {candidate.model}@{STABLE} VERSION.",
            )
        if stable == candidate.version:
            raise ConflictError(
                f"`{candidate}` is the stable version already, though not by this policy.",
                code="rollout.candidate_is_stable",
                hint=f"`linnet models show {candidate}` tells how it became that.",
            )
        return VersionRef(model=candidate.model, version=stable)

    def _wanted(
        self, found: serve_config.Config, candidate: VersionRef, stable: VersionRef
    ) -> serve_config.Config:
        wanted = serve_config.with_version(found, candidate, like=stable)
        return serve_config.with_controller(wanted, self._serve.url)

    def _deploy(self, candidate: VersionRef, stable: VersionRef, run: str, say: Say) -> bool:
        found = self._serve.config()
        wanted = self._wanted(found, candidate, stable)
        if wanted == found:
            return False
        self._serve.deploy(wanted)
        sentence = f"{candidate}: deployed as {stable} is, for the run {run}"
        with self._store.database.transaction() as session:
            events.append(
                session,
                kind="loop.deployed",
                subject=str(candidate),
                sentence=sentence,
                reason=f"--then-rollout {self._policy.name}",
                detail={"run": run, "like": str(stable)},
            )
        say(sentence)
        return True

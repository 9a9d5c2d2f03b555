"""Rollouts that the endpoint's YAML declares: begun once for each policy that it comes to hold."""

from __future__ import annotations

import logging

from sqlalchemy import select

from cluster.errors import LinnetError
from cluster.registry import ModelStore
from cluster.state.tables import RolloutRow
from serve_apps.rollout.service import Applied, Rollouts
from serve_apps.rollout.spec import RolloutSpec

_log = logging.getLogger(__name__)

ACTOR = "serve deploy"


def begin(store: ModelStore, model: str, spec: RolloutSpec) -> Applied | None:
    """Begin the rollout, in the place of one that is active, unless it has been begun before.

    None where there is nothing to do: this very policy was carried out or is, or its candidate is stable.
    """
    if spec.candidate is None or _was_begun(store, model, spec):
        return None
    rollouts = Rollouts(store)
    if store.aliases(model).get("stable") == spec.candidate:
        return None
    plan = rollouts.plan_begin(model, spec.candidate, spec, replace=True)
    if plan.warning:
        _log.warning("the declared rollout of %s will hold: %s", model, plan.warning)
    return rollouts.apply(plan, reason="declared in the endpoint's YAML", actor=ACTOR)


def begin_all(store: ModelStore, declared: dict[str, RolloutSpec]) -> dict[str, str]:
    """Begin what is declared; what cannot be begun is returned by model, with the reason, and logged."""
    refused: dict[str, str] = {}
    for model, spec in declared.items():
        try:
            begin(store, model, spec)
        except LinnetError as error:
            refused[model] = error.message
            _log.error("the declared rollout of %s was not begun: %s", model, error.render())
    return refused


def _was_begun(store: ModelStore, model: str, spec: RolloutSpec) -> bool:
    query = select(RolloutRow.id).where(RolloutRow.model == model, RolloutRow.spec_sha256 == spec.sha256())
    with store.database.snapshot() as session:
        return session.scalars(query).first() is not None

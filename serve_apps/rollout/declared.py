"""Rollouts that the endpoint's YAML declares: begun when the declaration is new, not when a controller is."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from sqlalchemy import select

from cluster.errors import LinnetError
from cluster.refs import STABLE
from cluster.registry import ModelStore
from cluster.state import declarations, events
from cluster.state.tables import RolloutRow
from serve_apps.rollout.service import Applied, Rollouts
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import ACTIVE

_log = logging.getLogger(__name__)

ACTOR = "serve deploy"
NOT_BEGUN = "rollout.not_begun"
"""The kind of the event of a declaration that nothing came of."""


def begin_all(store: ModelStore, declared: Mapping[str, RolloutSpec]) -> dict[str, RolloutSpec]:
    """Begin what is newly declared; returns what has to be tried again, since somebody was in the way.

    That nothing came of a declaration is an event of its model, with the reason.
    """
    again: dict[str, RolloutSpec] = {}
    for model, spec in declared.items():
        try:
            begin(store, model, spec)
        except LinnetError as error:
            _log.warning("the declared rollout of %s is tried again: %s", model, error)
            again[model] = spec
    return again


def forget_others(store: ModelStore, declared: Mapping[str, RolloutSpec]) -> None:
    """What is declared no longer is news when it is declared again."""
    with store.database.transaction() as session:
        declarations.keep(session, list(declared))


def begin(store: ModelStore, model: str, spec: RolloutSpec) -> Applied | None:
    """Begin the rollout, in the place of one that is active, unless this declaration has been seen.

    None where nothing is begun. Raises LinnetErrors that are retryable; others refuse it for good.
    """
    if _is_seen(store, model, spec):
        return None
    applied, reason = _begin(store, model, spec)
    with store.database.transaction() as session:
        declarations.put(session, model, spec.sha256())
        if reason:
            sentence = f"{model}: the declared rollout of {spec.candidate} was not begun: {reason}"
            _log.error("%s", sentence)
            events.append(session, kind=NOT_BEGUN, subject=model, sentence=sentence, actor=ACTOR)
    return applied


def _begin(store: ModelStore, model: str, spec: RolloutSpec) -> tuple[Applied | None, str]:
    """What was begun, or why nothing was."""
    if (earlier := _begun_earlier(store, model, spec)) is not None:
        # An active one has been begun just now, by a controller that was killed before it said so.
        over = f"rollout {earlier.id} was begun by this very policy; another `attempt` begins it again"
        return None, "" if earlier.phase in ACTIVE else over
    rollouts, candidate = Rollouts(store), spec.candidate or ""
    try:
        if store.aliases(model).get(STABLE) == candidate:
            return None, f"{candidate} is stable already"
        plan = rollouts.plan_begin(model, candidate, spec, replace=True)
        if plan.warning:
            _log.warning("the declared rollout of %s will hold: %s", model, plan.warning)
        return rollouts.apply(plan, reason="declared in the endpoint's YAML", actor=ACTOR), ""
    except LinnetError as error:
        if error.retryable:
            raise
        return None, f"{error.message.rstrip('.')}; mend it and give it another `attempt`"


def _is_seen(store: ModelStore, model: str, spec: RolloutSpec) -> bool:
    with store.database.snapshot() as session:
        return declarations.last_seen(session, model) == spec.sha256()


def _begun_earlier(store: ModelStore, model: str, spec: RolloutSpec) -> RolloutRow | None:
    query = select(RolloutRow).where(RolloutRow.model == model, RolloutRow.spec_sha256 == spec.sha256())
    with store.database.snapshot() as session:
        return session.scalars(query.order_by(RolloutRow.id.desc()).limit(1)).first()

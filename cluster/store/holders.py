"""Who still needs a version: aliases, traffic policies, live replicas and adapters on top of it."""

from __future__ import annotations

from sqlalchemy.orm import Session

from cluster.errors import ConflictError
from cluster.manifest import VersionKind, VersionManifest
from cluster.refs import CANDIDATE, STABLE, VersionRef
from cluster.state import aliases, policies, replicas


def holders(session: Session, ref: VersionRef, versions: list[VersionManifest]) -> list[str]:
    """Readable names of everything that needs `ref`; empty when it may be removed."""
    return [
        *_alias_holders(session, ref),
        *_policy_holders(session, ref),
        *_replica_holders(session, ref),
        *(f"adapter {m.ref}" for m in versions if m.kind is VersionKind.ADAPTER and m.parent == str(ref)),
    ]


def require_unheld(session: Session, ref: VersionRef, versions: list[VersionManifest]) -> None:
    """Raise ConflictError naming who needs `ref`, or return."""
    found = holders(session, ref, versions)
    if found:
        raise ConflictError(
            f"`{ref}` cannot be removed: {', '.join(found)}.",
            code="models.held",
            hint=f"Move the traffic and the aliases first; `linnet models show {ref}` shows them.",
        )


def require_ungoverned(session: Session, model: str, alias: str) -> None:
    """Raise ConflictError when a traffic policy owns this alias: the two move together or not at all."""
    if alias in (STABLE, CANDIDATE) and model in policies.models_with_policy(session):
        raise ConflictError(
            f"`{model}@{alias}` belongs to the traffic policy of {model}.",
            code="alias.governed",
            hint=f"`linnet rollout` start, promote and rollback move it: `linnet rollout status {model}`.",
        )


def _alias_holders(session: Session, ref: VersionRef) -> list[str]:
    found = aliases.of_model(session, ref.model)
    return [f"alias {ref.model}@{alias}" for alias, version in found.items() if version == ref.version]


def _policy_holders(session: Session, ref: VersionRef) -> list[str]:
    if ref.model not in policies.models_with_policy(session):
        return []
    policy = policies.get(session, ref.model)
    share = policy.weights().get(ref.version) if policy else None
    return [] if share is None else [f"traffic policy of {ref.model} ({share:g}%)"]


def _replica_holders(session: Session, ref: VersionRef) -> list[str]:
    rows = [row for row in replicas.live(session, ref.model) if row.version == ref.version]
    return [f"replica {row.replica} ({row.status})" for row in rows]

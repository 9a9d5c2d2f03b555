"""The tables. Times are UTC; JSON columns hold what the models beside them serialize to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    DateTime,
    Float,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


def utc_now() -> datetime:
    """Now, without a zone, in UTC: what the columns hold."""
    return datetime.now(UTC).replace(tzinfo=None)


class Base(DeclarativeBase):
    """Registry of all tables."""


class AliasRow(Base):
    """One alias; `revision` is what a compare-and-swap compares."""

    __tablename__ = "aliases"

    model: Mapped[str] = mapped_column(String(128), primary_key=True)
    alias: Mapped[str] = mapped_column(String(128), primary_key=True)
    version: Mapped[str] = mapped_column(String(128))
    revision: Mapped[int] = mapped_column(Integer)
    updated_at: Mapped[datetime] = mapped_column(DateTime, default=utc_now)


class PolicyRow(Base):
    """The live traffic policy of one model."""

    __tablename__ = "policies"

    model: Mapped[str] = mapped_column(String(128), primary_key=True)
    revision: Mapped[int] = mapped_column(Integer)
    stable: Mapped[str] = mapped_column(String(128))
    candidate: Mapped[str | None] = mapped_column(String(128))
    weight: Mapped[float] = mapped_column(Float)
    judging: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    updated_at: Mapped[datetime] = mapped_column(DateTime, default=utc_now)


class RolloutRow(Base):
    """One journey of one candidate; `phase` says where it is, `reason` why.

    `spec` is its policy, None where people move the weight; `step` and `approved` are indices of its
    steps, -1 before the first. `progress` is what the judge knows after `looks` looks. `followed`: how
    gateways followed the decision to take it back, kept since they forget it.
    """

    __tablename__ = "rollouts"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    model: Mapped[str] = mapped_column(String(128), index=True)
    candidate: Mapped[str] = mapped_column(String(128))
    stable: Mapped[str] = mapped_column(String(128))
    phase: Mapped[str] = mapped_column(String(32))
    reason: Mapped[str] = mapped_column(String(64))
    weight: Mapped[float] = mapped_column(Float)
    started_at: Mapped[datetime] = mapped_column(DateTime, default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(DateTime, default=utc_now)
    spec: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    spec_sha256: Mapped[str | None] = mapped_column(String(64))
    steps: Mapped[int] = mapped_column(Integer, default=0)
    step: Mapped[int] = mapped_column(Integer, default=-1)
    approved: Mapped[int] = mapped_column(Integer, default=-1)
    looks: Mapped[int] = mapped_column(Integer, default=0)
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    followed: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class DeclarationRow(Base):
    """The policy that an endpoint's YAML declares for a model, as a controller has last seen it."""

    __tablename__ = "declarations"

    model: Mapped[str] = mapped_column(String(128), primary_key=True)
    spec_sha256: Mapped[str] = mapped_column(String(64))
    seen_at: Mapped[datetime] = mapped_column(DateTime, default=utc_now)


class LookRow(Base):
    """One judging of a rollout: what was seen since the last one, and what came of it."""

    __tablename__ = "looks"

    rollout_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[datetime] = mapped_column(DateTime)
    inputs: Mapped[dict[str, Any]] = mapped_column(JSON)
    outcome: Mapped[dict[str, Any]] = mapped_column(JSON)
    decision_id: Mapped[int | None] = mapped_column(Integer)


class ControllerRow(Base):
    """Who may act for all: only the holder of the newest `epoch`."""

    __tablename__ = "controllers"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    epoch: Mapped[int] = mapped_column(Integer)
    holder: Mapped[str] = mapped_column(String(128))
    taken_at: Mapped[datetime] = mapped_column(DateTime, default=utc_now)


class DecisionRow(Base):
    """One decision with the inputs it was computed from, so that it can be recomputed."""

    __tablename__ = "decisions"
    __table_args__ = (UniqueConstraint("rollout_id", "seq"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    rollout_id: Mapped[int] = mapped_column(Integer, index=True)
    seq: Mapped[int] = mapped_column(Integer)
    command: Mapped[str] = mapped_column(String(32))
    inputs: Mapped[dict[str, Any]] = mapped_column(JSON)
    outcome: Mapped[dict[str, Any]] = mapped_column(JSON)
    at: Mapped[datetime] = mapped_column(DateTime, default=utc_now)


class EventRow(Base):
    """What happened, to whom, by whom and why; `sentence` is what people read."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_subject", "subject", "id"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(DateTime, default=utc_now)
    kind: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(256))
    actor: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str] = mapped_column(Text)
    sentence: Mapped[str] = mapped_column(Text)
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)


class RunRow(Base):
    """One training run; `status` where it is, `reason` why it ended so."""

    __tablename__ = "runs"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    status: Mapped[str] = mapped_column(String(32))
    reason: Mapped[str] = mapped_column(String(256))
    spec_sha256: Mapped[str] = mapped_column(String(64))
    step: Mapped[int] = mapped_column(Integer)
    total_steps: Mapped[int] = mapped_column(Integer)
    attempts: Mapped[int] = mapped_column(Integer)
    driver: Mapped[dict[str, Any]] = mapped_column(JSON)
    published: Mapped[list[str]] = mapped_column(JSON)
    started_at: Mapped[datetime] = mapped_column(DateTime, default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(DateTime, default=utc_now)


class ReplicaRow(Base):
    """One engine replica's own word on one version that it serves, renewed while it lives.

    `base` is the replica's own version where this one is an adapter on top of it, else None.
    """

    __tablename__ = "replicas"

    replica: Mapped[str] = mapped_column(String(256), primary_key=True)
    version: Mapped[str] = mapped_column(String(128), primary_key=True)
    model: Mapped[str] = mapped_column(String(128), index=True)
    base: Mapped[str | None] = mapped_column(String(128))
    status: Mapped[str] = mapped_column(String(32))
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)
    started_at: Mapped[datetime] = mapped_column(DateTime, default=utc_now)
    seen_at: Mapped[datetime] = mapped_column(DateTime, default=utc_now)


class LossRow(Base):
    """One replica that was lost: killed, or ended by a fault of its own.

    `heard_at` is its last sign of life, `detected_at` when a gateway could not reach it, or missed
    it, `isolated_at` when Serve named it no longer. `recovered_at` is when `replaced_by` had proven
    itself, which took it `prove_s` seconds after `load_s` of loading.
    """

    __tablename__ = "replica_losses"

    replica: Mapped[str] = mapped_column(String(256), primary_key=True)
    model: Mapped[str] = mapped_column(String(128), index=True)
    version: Mapped[str] = mapped_column(String(128))
    signal: Mapped[str] = mapped_column(String(32))
    heard_at: Mapped[datetime] = mapped_column(DateTime)
    detected_at: Mapped[datetime] = mapped_column(DateTime)
    isolated_at: Mapped[datetime] = mapped_column(DateTime)
    recovered_at: Mapped[datetime | None] = mapped_column(DateTime)
    replaced_by: Mapped[str | None] = mapped_column(String(256))
    load_s: Mapped[float | None] = mapped_column(Float)
    prove_s: Mapped[float | None] = mapped_column(Float)
    retried: Mapped[int] = mapped_column(Integer)
    continued: Mapped[int] = mapped_column(Integer)
    failed: Mapped[int] = mapped_column(Integer)


class TallyRow(Base):
    """What one life of one gateway has counted of a model under one revision of its traffic policy.

    `applied_at` is when the gateway began to route by it; `seen_at` is renewed while it does.
    """

    __tablename__ = "tallies"

    gateway: Mapped[str] = mapped_column(String(32), primary_key=True)
    model: Mapped[str] = mapped_column(String(128), primary_key=True, index=True)
    revision: Mapped[int] = mapped_column(Integer, primary_key=True)
    applied_at: Mapped[datetime] = mapped_column(DateTime)
    seen_at: Mapped[datetime] = mapped_column(DateTime)
    tally: Mapped[dict[str, Any]] = mapped_column(JSON)


class KeyRow(Base):
    """One API key; `digest` is the SHA-256 of its secret in hexadecimal. Rows are never deleted."""

    __tablename__ = "api_keys"
    # Two commands at once may both find a name free; the database lets only one of them have it.
    __table_args__ = (
        Index(
            "ix_api_keys_name",
            "name",
            unique=True,
            sqlite_where=text("revoked_at IS NULL"),
            postgresql_where=text("revoked_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(64))
    prefix: Mapped[str] = mapped_column(String(8))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    models: Mapped[list[str]] = mapped_column(JSON)
    admin: Mapped[bool] = mapped_column(Boolean)
    requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    tokens_per_minute: Mapped[int | None] = mapped_column(Integer)
    max_concurrent: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(DateTime, default=utc_now)
    expires_at: Mapped[datetime | None] = mapped_column(DateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime)


class DeliveryRow(Base):
    """How far one receiver outside has been told of one rollout; see `cluster/state/deliveries.py`."""

    __tablename__ = "rollout_deliveries"

    receiver: Mapped[str] = mapped_column(String(64), primary_key=True)
    rollout_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    settled: Mapped[int] = mapped_column(Integer)
    tries: Mapped[int] = mapped_column(Integer)
    not_before: Mapped[datetime | None] = mapped_column(DateTime)
    given_up: Mapped[int] = mapped_column(Integer)
    last_error: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[datetime] = mapped_column(DateTime, default=utc_now)

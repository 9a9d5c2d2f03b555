from __future__ import annotations

from datetime import datetime

import pytest

from cluster.state import journeys
from cluster.state.database import open_database
from cluster.state.tables import DecisionRow, LookRow, RolloutRow

NOW = datetime(2026, 3, 1)


@pytest.fixture
def database(tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/linnet.db")
    yield database
    database.dispose()


def add(database, candidate="v2", model="m", phase="rolled_back", reason="gate_failed", gate=None, why=""):
    """A rollout with two decisions, of which a look that named `gate` led to the last."""
    with database.transaction() as session:
        row = RolloutRow(
            model=model,
            candidate=candidate,
            stable="v1",
            phase=phase,
            reason=reason,
            weight=0.0,
            started_at=NOW,
            updated_at=NOW,
        )
        session.add(row)
        session.flush()
        for seq, reason in ((1, "begun"), (2, why)):
            decision = DecisionRow(
                rollout_id=row.id, seq=seq, command="c", inputs={"reason": reason}, outcome={}
            )
            session.add(decision)
            session.flush()
        if gate is not None:
            outcome = {"conclusion": {"gate": gate}}
            look = LookRow(rollout_id=row.id, seq=0, at=NOW, inputs={}, outcome=outcome)
            look.decision_id = decision.id
            session.add(look)
        return row.id


def found(database, model="m", version="v2"):
    with database.snapshot() as session:
        return journeys.of_version(session, model, version)


def test_a_versions_rollouts_come_with_their_verdicts_oldest_first(database):
    first = add(database, gate="error_rate max_ratio", why="error_rate max_ratio failed: 9%")
    second = add(database, phase="promoted", reason="promoted", why="all steps are done")
    add(database, candidate="v3")
    add(database, model="other")
    told = found(database)
    assert [(one.id, one.phase, one.reason, one.gate) for one in told] == [
        (first, "rolled_back", "gate_failed", "error_rate max_ratio"),
        (second, "promoted", "promoted", None),
    ]
    assert told[0].why == "error_rate max_ratio failed: 9%"
    assert (told[0].stable, told[0].began, told[0].changed) == ("v1", NOW, NOW)


def test_a_version_that_was_never_a_candidate_has_none(database):
    add(database)
    assert found(database, version="v1") == []

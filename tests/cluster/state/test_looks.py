from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from cluster.errors import ConflictError
from cluster.state import looks
from cluster.state.database import open_database
from cluster.state.tables import RolloutRow

NOW = datetime(2026, 3, 1)


@pytest.fixture
def database(tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/linnet.db")
    with database.transaction() as session:
        for _ in range(2):
            session.add(
                RolloutRow(
                    model="m", candidate="v2", stable="v1", phase="pending", reason="started", weight=0.0
                )
            )
    yield database
    database.dispose()


def append(database, seq, rollout=1, decision=None):
    with database.transaction() as session:
        row = looks.append(
            session,
            rollout=rollout,
            seq=seq,
            at=NOW + timedelta(seconds=seq),
            inputs={"seen": seq},
            outcome={"said": seq},
            progress={"known": seq},
        )
        row.decision_id = decision


def seqs(database, rollout=1, **wanted):
    with database.snapshot() as session:
        return [row.seq for row in looks.of_rollout(session, rollout, **wanted)]


def test_looks_are_numbered_from_0_and_kept_in_order(database):
    for seq in range(4):
        append(database, seq)
    append(database, 0, rollout=2)
    assert seqs(database) == [0, 1, 2, 3]
    assert seqs(database, upto=2) == [0, 1, 2]
    assert seqs(database, rollout=2) == [0]
    with database.snapshot() as session:
        row = session.get_one(RolloutRow, 1)
        assert (row.looks, row.progress) == (4, {"known": 3})
        newest = looks.newest(session, 1)
        assert (newest.inputs, newest.outcome, newest.at) == ({"seen": 3}, {"said": 3}, NOW.replace(second=3))


@pytest.mark.parametrize("seq", [0, 2])
def test_one_that_is_not_the_next_is_refused_and_changes_nothing(database, seq):
    append(database, 0)
    with pytest.raises(ConflictError) as caught:
        append(database, seq)
    assert (caught.value.code, caught.value.retryable) == ("rollout.look_taken", True)
    assert seqs(database) == [0]
    with database.snapshot() as session:
        assert session.get_one(RolloutRow, 1).progress == {"known": 0}


def test_a_rollout_that_is_not_there_is_not_looked_at(database):
    with pytest.raises(ConflictError, match="there are 0"):
        append(database, 0, rollout=9)


def test_the_look_that_led_to_a_decision_is_found_by_it(database):
    append(database, 0)
    append(database, 1, decision=12)
    with database.snapshot() as session:
        assert looks.of_decision(session, 12).seq == 1
        assert looks.of_decision(session, 13) is None
        assert looks.newest(session, 2) is None

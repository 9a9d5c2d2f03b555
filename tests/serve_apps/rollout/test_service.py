import contextlib
import json
import threading

import pytest

from cluster.errors import ConflictError, GateFailedError, IntegrityError, NotFoundError, UsageError
from cluster.registry import ModelStore
from cluster.state import policies
from cluster.state.database import Database
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import DecisionRow
from serve_apps.rollout import records
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.states import Promote, Rollback, SetWeight, Start
from tests.serve_apps.rollout import world
from tests.serve_apps.rollout.world import MODEL, Killed, killed_at


def start(candidate="v2", weight=10.0, **changes):
    return Start(model=MODEL, candidate=candidate, weight=weight, **changes)


def aliases_on_disk(store):
    return json.loads(store.storage.read_bytes(f"models/{MODEL}/aliases.json"))


def policy_of(store):
    with store.database.snapshot() as session:
        return policies.get(session, MODEL)


def test_the_loop_there_and_back_and_there_again(store, rollouts):
    for command in (
        start(),
        Promote(model=MODEL),
        Rollback(model=MODEL),
        start(weight=50),
        Promote(model=MODEL),
    ):
        rollouts.run(command)
    assert policy_of(store).weights() == {"v2": 100.0}
    assert store.aliases(MODEL) == {"stable": "v2", "previous": "v1"}
    assert aliases_on_disk(store) == store.aliases(MODEL)


def test_a_second_undo_does_not_reach_back_to_an_older_promotion(store, rollouts):
    for command in (
        start("v2"),
        Promote(model=MODEL),
        start("v3"),
        Promote(model=MODEL),
        Rollback(model=MODEL),
    ):
        rollouts.run(command)
    assert store.aliases(MODEL) == {"stable": "v2", "previous": "v3"}
    with pytest.raises(ConflictError, match="already"):
        rollouts.run(Rollback(model=MODEL))


def test_a_plan_changes_nothing(store, rollouts):
    before = world.dump(store)
    rollouts.plan(start())
    assert world.dump(store) == before


def test_what_was_decided_survives_reopening_everything(store, rollouts, tmp_path):
    rollouts.run(start())
    rollouts.run(Promote(model=MODEL))
    store.database.dispose()
    again = ModelStore(store.storage, Database(world.settings_at(tmp_path).state_url), tmp_path)
    Rollouts(again).run(Rollback(model=MODEL))
    assert policy_of(again).stable == "v1"
    again.database.dispose()


def test_events_hold_who_why_and_both_numbers(store, rollouts):
    rollouts.run(start(), reason="first try", actor="ada")
    applied = rollouts.run(SetWeight(model=MODEL, weight=25), reason="looks well", actor="bob")
    with store.database.snapshot() as session:
        newest = records.events_of(session, MODEL, 1)[0]
    assert newest.sentence == "tiny: weight of v2 from 10% to 25%"
    assert (newest.actor, newest.reason) == ("bob", "looks well")
    assert newest.detail["decision"] == applied.decision_id


def test_events_of_a_model_leave_out_one_with_a_longer_name(store, rollouts):
    rollouts.run(start())
    with store.database.snapshot() as session:
        assert records.events_of(session, "tin", 100) == []


def test_explain_recomputes_every_decision(rollouts):
    commands = [start(), SetWeight(model=MODEL, weight=50), Promote(model=MODEL), Rollback(model=MODEL)]
    for command in commands:
        explanation = rollouts.explain(rollouts.run(command).decision_id)
        assert explanation.agrees
        assert explanation.command["kind"] == command.kind


def test_explain_sees_an_outcome_that_was_changed(store, rollouts):
    applied = rollouts.run(start())
    with store.database.transaction() as session:
        row = session.get(DecisionRow, applied.decision_id)
        row.outcome = {**row.outcome, "sentence": "tiny: nothing happened"}
    assert not rollouts.explain(applied.decision_id).agrees


def test_explain_says_when_the_inputs_cannot_be_read(store, rollouts):
    applied = rollouts.run(start())
    with store.database.transaction() as session:
        session.get(DecisionRow, applied.decision_id).inputs = {"command": {"kind": "dance"}}
    with pytest.raises(IntegrityError, match="cannot be read"):
        rollouts.explain(applied.decision_id)


def test_explain_of_an_unknown_decision(rollouts):
    with pytest.raises(NotFoundError, match="99"):
        rollouts.explain(99)


def test_a_refused_replica_is_named_with_its_reason(store, rollouts):
    world.set_replica(store, "v2", ReplicaStatus.REFUSED, {"reason": "answers 'Paris' with 'Lyon'"})
    with pytest.raises(GateFailedError, match="answers 'Paris' with 'Lyon'"):
        rollouts.run(start())


def test_another_tokenizer_is_read_from_the_manifests(store, rollouts):
    world.add_version(store, "v4", tokenizer="x" * 64)
    world.set_replica(store, "v4")
    with pytest.raises(GateFailedError, match="another tokenizer"):
        rollouts.run(start("v4"))
    assert rollouts.run(start("v4", allow_tokenizer_change=True)).decision.policy.candidate == "v4"


@pytest.mark.parametrize(
    ("model", "error"), [("tiiny", NotFoundError), ("tiny:v2", UsageError), ("../x", UsageError)]
)
def test_what_is_no_model_is_refused(rollouts, model, error):
    with pytest.raises(error):
        rollouts.plan(Promote(model=model))


def test_a_plan_made_before_another_command_is_not_carried_out(store, rollouts):
    rollouts.run(start())
    stale = rollouts.plan(SetWeight(model=MODEL, weight=50))
    rollouts.run(SetWeight(model=MODEL, weight=20))
    before = world.dump(store)
    with pytest.raises(ConflictError) as caught:
        rollouts.apply(stale)
    assert caught.value.retryable
    assert world.dump(store) == before


def test_a_replica_that_goes_between_plan_and_apply_stops_it(store, rollouts):
    plan = rollouts.plan(start())
    world.drop_replica(store, "v2")
    before = world.dump(store)
    with pytest.raises(GateFailedError):
        rollouts.apply(plan)
    assert world.dump(store) == before


def test_a_mirror_that_cannot_be_written_is_a_warning_and_mended_by_the_next_command(
    store, rollouts, tmp_path
):
    mirror = tmp_path / "models" / MODEL / "aliases.json"
    mirror.unlink()
    mirror.mkdir()
    (mirror / "in-the-way").touch()
    assert "aliases.json" in rollouts.run(start()).warning
    assert policy_of(store).candidate == "v2"
    (mirror / "in-the-way").unlink()
    mirror.rmdir()
    assert rollouts.run(Promote(model=MODEL)).warning == ""
    assert aliases_on_disk(store) == store.aliases(MODEL)


def test_a_crash_at_any_statement_leaves_everything_as_it_was(store, rollouts):
    rollouts.run(start())
    plan = rollouts.plan(Promote(model=MODEL))
    before, survived = world.dump(store), 0
    while world.dump(store) == before:
        with killed_at(store, statement=survived), contextlib.suppress(Killed):
            rollouts.apply(plan)
        survived += 1
    assert survived > 8
    after = world.dump(store)
    assert [len(after[name]) - len(before[name]) for name in ("rollouts", "decisions", "events")] == [0, 1, 4]
    assert policy_of(store).weights() == {"v2": 100.0}
    assert store.aliases(MODEL) == {"stable": "v2", "previous": "v1"}


def test_of_many_starts_at_once_one_wins_and_the_others_do_nothing(store, tmp_path):
    barrier, outcomes = threading.Barrier(6), []

    def race(candidate):
        database = Database(world.settings_at(tmp_path).state_url)
        contender = Rollouts(ModelStore(store.storage, database, tmp_path))
        plan = contender.plan(start(candidate))
        barrier.wait(timeout=60)
        try:
            outcomes.append(contender.apply(plan).decision.policy.candidate)
        except ConflictError as error:
            outcomes.append(error)
        database.dispose()

    threads = [threading.Thread(target=race, args=(v,)) for v in ("v2", "v3") * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    winners = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert (len(outcomes), len(winners)) == (6, 1)
    assert policy_of(store).candidate == winners[0]
    rows = world.dump(store)
    assert (len(rows["rollouts"]), len(rows["decisions"]), policy_of(store).revision) == (1, 1, 1)

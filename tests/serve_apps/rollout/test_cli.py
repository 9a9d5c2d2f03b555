import json

import pytest

from cluster.cli.main import main
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import DecisionRow
from serve_apps.rollout import watching
from tests.serve_apps.rollout import world


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, store):
    for name in ("LINNET_ROOT", "LINNET_STATE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LINNET_HOME", str(tmp_path))


@pytest.fixture
def rollout(capsys):
    def call(*arguments):
        code = main(["rollout", *arguments])
        return code, capsys.readouterr()

    return call


def as_json(result):
    code, printed = result
    return code, json.loads(printed.out)


def test_the_loop_by_its_json(rollout):
    code, started = as_json(
        rollout("start", "tiny:v2", "--weight", "10", "--reason", "try", "--yes", "--json")
    )
    assert code == 0
    assert (started["target"], started["applied"], started["dry_run"]) == ("tiny", True, False)
    assert started["detail"]["weights_before"] == {"v1": 100.0}
    assert started["detail"]["weights"] == {"v1": 90.0, "v2": 10.0}
    assert as_json(rollout("set-weight", "tiny", "25", "--yes", "--json"))[1]["detail"]["revision"] == 2
    assert as_json(rollout("promote", "tiny", "--yes", "--json"))[1]["detail"]["phase"] == "promoted"
    assert as_json(rollout("rollback", "tiny", "--yes", "--json"))[1]["detail"]["weights"] == {"v1": 100.0}
    assert as_json(rollout("start", "tiny:v2", "--weight", "50", "--yes", "--json"))[0] == 0
    assert as_json(rollout("promote", "tiny", "--yes", "--json"))[1]["detail"]["weights"] == {"v2": 100.0}
    code, listed = as_json(rollout("--json"))
    assert [(row["candidate"], row["phase"], row["reason"]) for row in listed["data"]] == [
        ("v2", "rolled_back", "undone"),
        ("v2", "promoted", "promoted"),
    ]


def test_the_plan_goes_to_stderr_and_the_result_to_stdout(rollout):
    code, printed = rollout("start", "tiny:v2", "--weight", "10", "--yes")
    assert code == 0
    assert "tiny:v1  weight 100% -> 90%" in printed.err
    assert "tiny@candidate  (absent) -> v2" in printed.err
    assert "weight from 0% to 10%" in printed.out
    assert "next: linnet rollout set-weight tiny" in printed.out


def test_a_dry_run_changes_nothing(rollout, store):
    before = world.dump(store)
    code, said = as_json(rollout("start", "tiny:v2", "--weight", "10", "--dry-run", "--json"))
    assert (code, said["applied"], said["dry_run"]) == (0, False, True)
    assert said["detail"]["decision"] is None
    assert world.dump(store) == before


def test_without_yes_and_without_a_terminal_nothing_is_done(rollout, store):
    before = world.dump(store)
    code, said = as_json(rollout("start", "tiny:v2", "--weight", "10", "--json"))
    assert (code, said["error"]["code"]) == (2, "usage.not_confirmed")
    assert world.dump(store) == before


@pytest.mark.parametrize(
    ("arguments", "exit_code", "error"),
    [
        (["start", "tiny:v9", "--weight", "10"], 3, "models.unknown_version"),
        (["start", "tinny:v2", "--weight", "10"], 3, "models.unknown_model"),
        (["start", "tiny:v1", "--weight", "10"], 2, "rollout.candidate_is_stable"),
        (["start", "tiny:v2", "--weight", "101"], 2, "rollout.weight"),
        (["start", "tiny:v2", "--weight", "ten"], 2, "usage.arguments"),
        (["start", "tiny:v2"], 2, "usage.arguments"),
        (["set-weight", "tiny", "10"], 1, "rollout.none_active"),
        (["set-weight", "tiny:v2", "10"], 2, "rollout.not_a_model"),
        (["promote", "tiny"], 1, "rollout.none_active"),
        (["rollback", "tiny"], 1, "rollout.nothing_to_roll_back"),
        (["history", "tinny"], 3, "models.unknown_model"),
        (["status", "tinny"], 3, "models.unknown_model"),
        (["explain", "5"], 3, "rollout.unknown_decision"),
        (["promot", "tiny"], 2, "usage.arguments"),
    ],
)
def test_each_refusal_has_its_code_and_leaves_everything_alone(rollout, store, arguments, exit_code, error):
    before = world.dump(store)
    mutation = arguments[0] in ("start", "set-weight", "promote", "rollback")
    code, said = as_json(rollout(*arguments, *(["--yes"] if mutation else []), "--json"))
    assert (code, said["error"]["code"]) == (exit_code, error)
    assert set(said["error"]) == {"code", "message", "hint", "retryable"}
    assert world.dump(store) == before


def test_a_candidate_that_proves_nothing_gets_exit_4_and_the_reason(rollout, store):
    world.set_replica(store, "v2", ReplicaStatus.REFUSED, {"reason": "'Lyon' is not 'Paris'"})
    code, said = as_json(rollout("start", "tiny:v2", "--weight", "10", "--yes", "--json"))
    assert (code, said["error"]["code"]) == (4, "gate.no_replica")
    assert "'Lyon' is not 'Paris'" in said["error"]["message"]


def test_status_is_a_tree_of_versions_and_events(rollout, store):
    rollout("start", "tiny:v2", "--weight", "12.5", "--reason", "try", "--yes")
    world.set_replica(store, "v2", ReplicaStatus.REFUSED, {"reason": "'Lyon' is not 'Paris'"})
    code, printed = rollout("status", "tiny")
    lines = printed.out.splitlines()
    assert code == 0
    assert lines[0] == "tiny  progressing (started)  rollout 1: v2 at 12.5%"
    assert lines[1].split() == ["├──", "v1", "stable", "87.5%", "replicas:", "1", "serving"]
    assert lines[2].split() == ["├──", "v2", "candidate", "12.5%", "replicas:", "none"]
    assert "refused: 'Lyon' is not 'Paris'" in lines[3]
    assert "by" in lines[-1]
    assert "(try)" in lines[-1]


def test_status_as_json_lists_every_model(rollout):
    rollout("start", "tiny:v2", "--weight", "10", "--yes")
    code, said = as_json(rollout("status", "--json"))
    assert code == 0
    assert [(s["model"], s["phase"], s["candidate"]) for s in said["data"]] == [("tiny", "progressing", "v2")]
    assert {v["version"]: v["weight"] for v in said["data"][0]["versions"]} == {"v1": 90, "v2": 10, "v3": 0}


def test_watching_as_json_is_refused(rollout):
    code, said = as_json(rollout("status", "--watch", "--json"))
    assert (code, said["error"]["code"]) == (2, "usage")


def test_watching_prints_what_changed_until_interrupted(rollout, monkeypatch):
    def interrupt(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", interrupt)
    code, printed = rollout("status", "tiny", "--watch")
    assert code == 130
    assert printed.out.startswith("tiny  idle, no rollout yet")


def test_history_tells_of_decisions_and_alias_moves_in_order(rollout):
    rollout("start", "tiny:v2", "--weight", "10", "--reason", "try", "--yes")
    rollout("promote", "tiny", "--yes")
    code, said = as_json(rollout("history", "tiny", "--json"))
    assert code == 0
    assert [row["decision"] for row in said["data"] if row["decision"]] == [1, 2]
    assert any(row["sentence"] == "tiny@stable moved from v1 to v2" for row in said["data"])
    assert {row["reason"] for row in said["data"] if row["decision"] == 1} == {"try"}
    assert "promoted, from 10% to 100%" in rollout("history", "tiny")[1].out


def test_explain_shows_the_inputs_and_fails_when_the_outcome_was_changed(rollout, store):
    rollout("start", "tiny:v2", "--weight", "10", "--yes")
    code, printed = rollout("explain", "1")
    assert code == 0
    assert "kind=start, model=tiny, candidate=v2, weight=10.0" in printed.out
    assert as_json(rollout("explain", "1", "--json"))[1]["agrees"] is True
    with store.database.transaction() as session:
        row = session.get(DecisionRow, 1)
        row.outcome = {**row.outcome, "sentence": "nothing"}
    code, said = as_json(rollout("explain", "1", "--json"))
    assert (code, said["error"]["code"]) == (1, "rollout.decision_differs")


def test_help_tells_how_to_go_forward_again(rollout):
    code, printed = rollout("--help")
    assert code == 0
    assert "After a rollback" in printed.out

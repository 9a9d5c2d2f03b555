from __future__ import annotations

import pytest
import yaml

from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import LookRow
from serve_apps.rollout import watching
from tests.serve_apps.rollout import world
from tests.serve_apps.rollout.judged_world import QUICK


@pytest.fixture
def policy(tmp_path):
    """A file with the quick policy; `candidate` is left out."""

    def write(name="canary.yaml", **changed):
        tree = {key: value for key, value in QUICK.stored().items() if key in ("steps", "gates")}
        file = tmp_path / name
        file.write_text(yaml.safe_dump({**tree, **changed}))
        return file

    return write


@pytest.fixture
def failed(judged) -> int:
    judged.errors.update(v1=0.02, v2=0.4)
    rollout = judged.begin().rollout_id
    judged.run(judged.controller(), rollout)
    judged.serve(0.5)
    return rollout


def test_a_rollout_is_begun_by_a_policy_and_shows_it_first(linnet, store, policy):
    code, printed = linnet("start", "tiny:v2", "--policy", policy(), "--reason", "try", "--yes")
    assert code == 0
    assert "steps: 5% -> 50% -> 100%" in printed.err
    assert "gate: error_rate max_ratio: at most 1.5x" in printed.err
    assert "rollout of v2 begun at 0% of 3 steps" in printed.out
    assert "next: linnet rollout status tiny --watch, or wait tiny" in printed.out
    assert store.aliases("tiny")["candidate"] == "v2"


def test_its_plan_as_json_holds_the_policy_and_a_dry_run_changes_nothing(linnet_json, store, policy):
    before = world.dump(store)
    code, said = linnet_json("start", "tiny:v2", "--policy", policy(), "--dry-run")
    assert (code, said["applied"], said["detail"]["phase"]) == (0, False, "pending")
    assert [step["weight"] for step in said["detail"]["policy"]["steps"]] == [5, 50, 100]
    assert world.dump(store) == before


def test_one_that_is_begun_tells_programs_its_id(linnet_json, policy):
    code, said = linnet_json("start", "tiny:v2", "--policy", policy(), "--yes")
    assert (code, said["target"], said["applied"], said["detail"]["rollout"]) == (0, "tiny", True, 1)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--weight", "10", "--policy", "canary.yaml"], "usage.arguments"),
        (["--weight", "10", "--replace"], "usage.arguments"),
        ([], "usage.arguments"),
        (["--policy", "other.yaml"], "rollout.other_candidate"),
        (["--policy", "wrong.yaml"], "config.invalid_value"),
        (["--policy", "nowhere.yaml"], "config.no_file"),
        (["--policy", "secret.yaml"], "rollout.no_secret"),
        (["--policy", "key.yaml"], "rollout.no_secret"),
        (["--policy", "judge.yaml"], "rollout.no_secret"),
    ],
)
def test_a_policy_that_does_not_fit_begins_nothing(linnet_json, store, policy, arguments, error):
    policy()
    policy("other.yaml", candidate="v3")
    policy("wrong.yaml", alpha=2)
    policy("secret.yaml", slack={"url_env": "NOT_SET"})
    quality = {"metric": "quality", "data": "set.jsonl", "max_drop": "5 points"}
    judge = {"url": "http://127.0.0.1:9/v1", "model": "large", "api_key_env": "NOT_SET"}
    policy("key.yaml", gates=[quality | {"api_key_env": "NOT_SET"}])
    policy("judge.yaml", gates=[quality | {"judge": judge}])
    before = world.dump(store)
    code, said = linnet_json("start", "tiny:v2", *arguments, "--yes")
    assert (code, said["error"]["code"]) == (3 if error == "config.no_file" else 2, error)
    assert world.dump(store) == before


def test_an_active_one_is_replaced_only_when_that_is_said(linnet, linnet_json, policy):
    linnet("start", "tiny:v2", "--policy", policy(), "--yes")
    code, said = linnet_json("start", "tiny:v3", "--policy", policy(), "--yes")
    assert (code, said["error"]["code"]) == (1, "rollout.active")
    code, printed = linnet("start", "tiny:v3", "--policy", policy(), "--replace", "--yes")
    assert code == 0
    assert "tiny:v2  taken back from its rollout, as superseded" in printed.err
    _, listed = linnet_json("list")
    assert [(one["candidate"], one["reason"]) for one in listed["data"]] == [
        ("v2", "superseded"),
        ("v3", "started"),
    ]


def test_a_persons_words_have_their_reasons_kept(linnet, linnet_json, judged, policy):
    file = policy(steps=[{"weight": 5}, {"approve": True}, {"weight": 100}])
    linnet("start", "tiny:v2", "--policy", file, "--yes")
    judged.run(judged.controller(), 1, seconds=60)
    for verb in ("approve", "pause", "resume", "abort"):
        assert linnet(verb, "tiny", "--reason", f"to {verb}", "--yes")[0] == 0, verb
    _, said = linnet_json("history", "tiny")
    kept = {row["kind"]: row["reason"] for row in said["data"] if row["decision"]}
    assert {verb: kept[f"rollout.{verb}"] for verb in ("approve", "pause", "resume", "rollback")} == {
        "approve": "to approve",
        "pause": "to pause",
        "resume": "to resume",
        "rollback": "to abort",
    }


@pytest.mark.parametrize(
    ("verb", "error"),
    [
        ("approve", "rollout.none_active"),
        ("pause", "rollout.none_active"),
        ("resume", "rollout.none_active"),
        ("abort", "rollout.none_active"),
        ("retry", "rollout.nothing_to_retry"),
    ],
)
def test_without_a_rollout_there_is_nothing_to_say(linnet_json, store, verb, error):
    before = world.dump(store)
    code, said = linnet_json(verb, "tiny", "--yes")
    assert (code, said["error"]["code"]) == (1, error)
    code, said = linnet_json(verb, "tinny", "--yes")
    assert (code, said["error"]["code"]) == (3, "models.unknown_model")
    assert world.dump(store) == before


def test_abort_never_undoes_a_promotion(linnet, linnet_json, store):
    linnet("start", "tiny:v2", "--weight", "50", "--yes")
    linnet("promote", "tiny", "--yes")
    code, said = linnet_json("abort", "tiny", "--yes")
    assert (code, said["error"]["code"]) == (1, "rollout.none_active")
    assert store.aliases("tiny")["stable"] == "v2"


def test_retry_begins_the_same_again(linnet, linnet_json, policy):
    linnet("start", "tiny:v2", "--policy", policy(alpha=0.07), "--yes")
    code, said = linnet_json("retry", "tiny", "--yes")
    assert (code, said["error"]["code"]) == (1, "rollout.nothing_to_retry")
    linnet("abort", "tiny", "--yes")
    code, said = linnet_json("retry", "tiny", "--yes")
    assert (code, said["detail"]["rollout"], said["detail"]["policy"]["alpha"]) == (0, 2, 0.07)
    assert said["detail"]["policy"]["candidate"] == "v2"


def test_status_tells_of_gates_and_of_the_taking_back(linnet, linnet_json, failed):
    _, said = linnet_json("status", "tiny")
    [status] = said["data"]
    errors, ttft = status["judged"]["gates"]
    assert (errors["verdict"], errors["limit"], errors["samples_are"]) == ("fail", "at most 1.5x", "answers")
    assert ttft["verdict"] in ("pass", "inconclusive")
    assert status["taken_back"]["seconds"] == pytest.approx(0.5)
    code, printed = linnet("status", "tiny")
    assert code == 0
    assert "✖ error_rate max_ratio" in printed.out
    assert "\x1b" not in printed.out


def test_watching_shows_the_tree_on_a_terminal(linnet, failed, monkeypatch):
    def interrupt(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", interrupt)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    code, printed = linnet("status", "tiny", "--watch")
    assert code == 130
    assert "error_rate max_ratio" in printed.out


def test_history_says_how_long_gateways_took(linnet, linnet_json, failed):
    _, said = linnet_json("history", "tiny")
    followed = {row["kind"]: row["followed"] for row in said["data"] if row["decision"]}
    assert followed["rollout.rollback"]["seconds"] == pytest.approx(0.5)
    assert followed["rollout.rollback"]["gateways"] == 1
    assert "IN FORCE" in linnet("history", "tiny")[1].out
    assert "0.50 s" in linnet("history", "tiny")[1].out


def test_explain_of_a_rollout_shows_the_arithmetic_and_fails_where_it_differs(
    linnet, linnet_json, store, failed
):
    code, printed = linnet("explain", "--rollout", failed)
    assert code == 0
    assert "against 1/alpha = 40: reached" in printed.out
    assert "taken back: decided" in printed.out
    assert "recompute to the same" in printed.out
    _, said = linnet_json("explain", "--rollout", failed)
    assert [one["agrees"] for one in said["decisions"]] == [True, True, True]
    with store.database.transaction() as session:
        look = session.get(LookRow, (failed, 1))
        gates = {name: {**found, "samples": 1} for name, found in look.outcome["findings"].items()}
        look.outcome = {**look.outcome, "findings": gates}
    code, said = linnet_json("explain", "--rollout", failed)
    assert (code, said["error"]["code"]) == (1, "rollout.decision_differs")
    assert "look 1" in said["error"]["message"]


def test_explain_of_one_decision_shows_the_same_arithmetic(linnet, linnet_json, failed):
    _, of_all = linnet_json("explain", "--rollout", failed)
    last = of_all["decisions"][-1]
    code, printed = linnet("explain", last["decision"])
    assert code == 0
    errors = last["gates"][0]
    assert (
        f"{errors['gate']}  fail          {errors['candidate']} against {errors['baseline']}" in printed.out
    )
    assert f"{errors['measured']}, at most 1.5x" in printed.out
    assert f"to fail       {errors['against']}" in printed.out
    assert f"to pass       {errors['in_favour']}" in printed.out
    _, said = linnet_json("explain", last["decision"])
    assert said["gates"] == last["gates"]
    assert said["look"]["conclusion"]["gate"] == "error_rate max_ratio"


def test_explain_of_a_persons_decision_has_no_gates(linnet, linnet_json):
    linnet("start", "tiny:v2", "--weight", "10", "--yes")
    assert "1/alpha" not in linnet("explain", "1")[1].out
    assert linnet_json("explain", "1")[1]["gates"] == []


@pytest.mark.parametrize(
    ("arguments", "exit_code", "error"),
    [
        (["explain"], 2, "usage.arguments"),
        (["explain", "1", "--rollout", "1"], 2, "usage.arguments"),
        (["explain", "--rollout", "9"], 3, "rollout.unknown"),
        (["plot", "9"], 3, "rollout.unknown"),
        (["plot", "1", "--out", "x.svg"], 2, "usage.arguments"),
        (["plot", "1", "--out", "nowhere/x.png"], 2, "usage.out"),
        (["replay", "9", "--policy", "canary.yaml"], 3, "rollout.unknown"),
        (["replay", "1", "--policy", "nowhere.yaml"], 3, "config.no_file"),
        (["wait", "tinny"], 3, "models.unknown_model"),
        (["wait", "tiny", "--rollout", "9"], 3, "rollout.unknown"),
        (["wait", "tiny", "--timeout", "soon"], 2, "usage.arguments"),
        (["plan", "tinny:v2", "--policy", "canary.yaml"], 3, "models.unknown_model"),
        (["plan", "tiny:v9", "--policy", "canary.yaml"], 3, "models.unknown_version"),
        (["plan", "tiny", "--policy", "canary.yaml"], 2, "usage.arguments"),
        (["plan", "tiny:v2", "--policy", "nowhere.yaml"], 3, "config.no_file"),
    ],
)
def test_each_refusal_has_its_code(linnet_json, failed, policy, arguments, exit_code, error):
    policy()
    code, said = linnet_json(*arguments)
    assert (code, said["error"]["code"]) == (exit_code, error)


@pytest.mark.parametrize("verb", [["plot", "1"], ["replay", "1", "--policy", "canary.yaml"]])
def test_one_that_was_moved_by_hand_has_no_looks_to_show(linnet, linnet_json, policy, verb):
    policy()
    linnet("start", "tiny:v2", "--weight", "10", "--yes")
    code, said = linnet_json(*verb)
    assert (code, said["error"]["code"]) == (1, "rollout.by_hand")


def test_wait_ends_with_what_ci_needs(linnet, linnet_json, store, judged, failed):
    code, said = linnet_json("wait", "tiny")
    assert (code, said["error"]["code"]) == (4, "rollout.taken_back")
    assert "error_rate max_ratio failed" in said["error"]["message"]
    judged.errors.clear()
    rollout = judged.begin().rollout_id
    code, said = linnet_json("wait", "tiny", "--timeout", "10ms")
    assert (code, said["error"]["code"]) == (5, "rollout.not_over")
    judged.run(judged.controller(), rollout)
    code, printed = linnet("wait", "tiny")
    assert (code, printed.out) == (0, "tiny:v2 is @stable (rollout 2)\n")
    assert "v2 promoted" in printed.err
    assert linnet_json("wait", "tiny", "--rollout", failed)[0] == 4


def test_replay_puts_both_side_by_side(linnet, linnet_json, failed, policy):
    code, printed = linnet("replay", failed, "--policy", policy(alpha=0.4))
    assert code == 0
    assert printed.out.count("step 1 begins: look 0") == 2
    assert "The other policy would have taken the candidate back at look" in printed.out
    code, said = linnet_json("replay", failed, "--policy", policy())
    assert said["other"] == said["happened"]


def test_a_plan_before_anything_was_asked_says_so_and_exits_with_0(linnet, linnet_json, policy):
    code, printed = linnet("plan", "tiny:v2", "--policy", policy())
    assert code == 0
    assert "nothing is known of how v1 answers" in printed.out
    assert "Without requests nothing can be judged" in printed.out
    code, said = linnet_json("plan", "tiny", "--policy", policy(candidate="v2"), "--requests-per-second", "5")
    assert (code, said["candidate"], said["stable"], said["given"]) == (0, "v2", "v1", True)


def test_a_plan_uses_what_gateways_have_counted(linnet, failed, policy):
    code, printed = linnet("plan", "tiny:v2", "--policy", policy())
    assert code == 0
    assert "requests/s" in printed.out
    assert "of v1 in the tallies of judged rollouts" in printed.out
    assert "next: linnet rollout start tiny:v2 --policy" in printed.err


def test_a_candidate_that_is_refused_is_named_by_its_version(linnet, store, policy):
    linnet("start", "tiny:v2", "--policy", policy(), "--yes")
    world.set_replica(store, "v2", ReplicaStatus.REFUSED, {"reason": "'Lyon' is not 'Paris'"})
    assert "refused: 'Lyon' is not 'Paris'" in linnet("status", "tiny")[1].out

from __future__ import annotations

import json

import pytest

from cluster import closed_loop
from cluster.cli.main import main
from cluster.closed_loop import Begun
from cluster.errors import ConfigError, ConflictError, GateFailedError, TimedOutError
from cluster.manifest import Lineage, VersionKind
from cluster.refs import VersionRef
from train_jobs import closing, driver, planning
from train_jobs.driver import RunResult
from train_jobs.ending import Ending, Why
from train_jobs.spec import DataSpec, PublishSpec

V2 = VersionRef(model="tiny", version="v2")
END = Ending(step=8, why=Why.MAX_STEPS)


class FakeLoop:
    """Does nothing, and remembers what it was asked."""

    def __init__(self):
        self.left = ["deploy tiny:v2", "begin a rollout of tiny:v2"]
        self.asked = []
        self.refuses = None
        self.ends = None

    def plan(self, candidate):
        assert candidate == V2
        if self.refuses:
            raise self.refuses
        return self.left

    def carry_out(self, candidate, *, run, say):
        self.asked.append(("carry_out", str(candidate), run))
        say("tiny: rollout of v2 begun")
        begun, self.left = bool(self.left), []
        return Begun(rollout=7, phase="pending", deployed=begun, begun=begun)

    def wait(self, candidate, rollout, say):
        self.asked.append(("wait", str(candidate), rollout))
        if self.ends:
            raise self.ends
        return {"rollout": rollout, "phase": "promoted"}


@pytest.fixture
def spec(spec, data_file):
    return spec.model_copy(
        update={
            "publish": PublishSpec(version="v2"),
            "data": DataSpec(train=str(data_file), validation=str(data_file)),
            "eval_steps": 2,
            "save_steps": 2,
            "load_best_model_at_end": True,
        }
    )


@pytest.fixture
def loop(monkeypatch):
    made = FakeLoop()

    def provide(policy, settings, wait=None):
        made.asked.append(("made", policy.name, wait))
        return made

    monkeypatch.setattr(closed_loop, "then_rollout", provide)
    return made


@pytest.fixture
def trains(monkeypatch, store, tiny_dir):
    """Training that only publishes; says how often it was begun."""
    began = []

    def train(spec, settings):
        began.append(spec.run)
        lineage = Lineage(run=spec.run, step=6, metrics={"eval_loss": 0.25})
        if "v2" not in store.labels("tiny"):
            store.publish(tiny_dir, V2, kind=VersionKind.MERGED, source_label="run", lineage=lineage)
        return RunResult(
            run=spec.run, trained=True, step=8, why=Why.MAX_STEPS, published=["tiny:v2"], directory="d"
        )

    monkeypatch.setattr(driver, "train", train)
    return began


@pytest.fixture
def run(capsys, tmp_path, settings, store, spec):
    path = tmp_path / "spec.yaml"
    path.write_text(spec.to_yaml())

    def call(*arguments):
        code = main(["train", "run", str(path), *arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


THEN = ("--then-rollout", "canary.yaml")


def test_what_was_published_is_rolled_out(run, loop, trains):
    code, out, err = run(*THEN, "--yes", "--json")
    assert code == 0
    detail = json.loads(out)["detail"]
    assert (detail["run"], detail["published"]) == ("run-1", ["tiny:v2"])
    assert detail["then_rollout"] == {
        "version": "tiny:v2",
        "lineage": {"run": "run-1", "step": 6, "metrics": {"eval_loss": 0.25}},
        "rollout": 7,
        "phase": "pending",
        "deployed": True,
        "begun": True,
        "ended": None,
    }
    assert loop.asked == [("made", "canary.yaml", None), ("carry_out", "tiny:v2", "run-1")]
    assert "tiny:v2: the best checkpoint of the run run-1 is that of step 6 (eval_loss 0.25)" in err


def test_what_is_planned_is_shown_before_anything_is_trained(run, loop, trains):
    code, out, err = run(*THEN, "--wait", "30m", "--dry-run", "--json")
    told = json.loads(out)
    assert (code, told["applied"], told["detail"]["then_rollout"]) == (0, False, loop.left)
    assert "  train tiny:v1 as the run run-1" in err
    assert "  begin a rollout of tiny:v2" in err
    assert trains == []
    assert "--then-rollout canary.yaml --wait 30m --yes" in run(*THEN, "--wait", "30m", "--dry-run")[1]


def test_what_can_be_known_beforehand_stops_it_before_training(run, loop, trains):
    loop.refuses = ConflictError("no endpoint", code="loop.no_serve")
    code, out, _ = run(*THEN, "--yes", "--json")
    assert (code, json.loads(out)["error"]["code"], trains) == (1, "loop.no_serve", [])


def test_waiting_ends_with_the_rollouts_exit_code(run, loop, trains):
    code, out, _ = run(*THEN, "--wait", "2h", "--yes", "--json")
    assert (code, json.loads(out)["detail"]["then_rollout"]["ended"]["phase"]) == (0, "promoted")
    assert loop.asked[0] == ("made", "canary.yaml", "2h")
    for error, expected in ((GateFailedError("taken back"), 4), (TimedOutError("not over"), 5)):
        loop.ends = error
        assert run(*THEN, "--wait", "2h", "--yes", "--json")[0] == expected


def test_with_the_rollout_begun_nothing_is_asked(run, loop, trains, monkeypatch, settings, spec):
    run(*THEN, "--yes")
    done = planning.plan(spec, settings).model_copy(update={"end": END, "missing": []})
    monkeypatch.setattr(planning, "plan", lambda *_: done)
    code, out, _ = run(*THEN)
    assert (code, "rollout 7 is pending" in out) == (0, True)


def prepared(spec, settings):
    from pathlib import Path

    return closing.prepare(Path("canary.yaml"), None, planning.plan(spec, settings), settings)


def test_a_run_without_a_full_version_has_nothing_to_roll_out(loop, settings, store, spec):
    for publish in (None, PublishSpec(adapter_version="a", merge=False)):
        with pytest.raises(ConfigError) as caught:
            prepared(spec.model_copy(update={"publish": publish}), settings)
        assert caught.value.code == "train.no_version"


def test_what_was_not_evaluated_is_not_rolled_out(loop, settings, store, spec):
    with pytest.raises(ConfigError) as caught:
        prepared(spec.model_copy(update={"load_best_model_at_end": False}), settings)
    assert caught.value.code == "train.not_evaluated"
    assert "eval_steps" in caught.value.hint


def test_there_is_nothing_to_wait_for_without_a_rollout(run, trains):
    code, out, _ = run("--wait", "30m", "--yes", "--json")
    assert (code, trains) == (2, [])
    assert "--then-rollout" in json.loads(out)["error"]["hint"]

import json
import os

import pytest

from cluster.cli.main import main
from cluster.manifest import Golden, GoldenAnswer
from cluster.refs import parse_version_ref
from cluster.state import policies, replicas
from cluster.state.replicas import ReplicaStatus
from cluster.traffic import TrafficPolicy
from tests.support.tiny_model import make_tiny_model

V1 = parse_version_ref("m:v1")


@pytest.fixture
def run(capsys):
    """`code, out, err = run("models", "list")`."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.fixture
def two(store, publish):
    publish(store, "m:v1")
    publish(store, "m:v2", seed=1)
    return store


def error_of(out: str) -> dict:
    return json.loads(out)["error"]


def test_an_empty_store_says_how_to_fill_it(run, settings):
    for arguments in (["models"], ["models", "list"]):
        code, out, _ = run(*arguments)
        assert code == 0
        assert "linnet models import smollm2" in out


def test_a_bare_noun_lists(run, two):
    code, out, _ = run("models")

    assert code == 0
    head, first, second = out.splitlines()
    assert head.split() == ["MODEL", "VERSION", "KIND", "ALIASES", "DTYPE", "PARAMETERS", "SIZE", "CREATED"]
    assert first.split()[:6] == ["m", "v1", "base", "stable", "bfloat16", "520"]
    assert second.split()[:4] == ["m", "v2", "base", "-"]


def test_the_json_list_holds_plain_numbers_and_times(run, two):
    code, out, _ = run("models", "list", "--json")

    shown = json.loads(out)
    assert code == 0
    assert set(shown) == {"as_of", "data"}
    row = shown["data"][0]
    assert (row["version"], row["parameters"], row["aliases"]) == ("v1", 520, ["stable"])
    assert row["size"] == two.manifest(V1).total_bytes
    assert row["created"].endswith("+00:00")


def test_show_tells_of_a_version_and_of_a_whole_model(run, two):
    code, out, _ = run("models", "show", "m@stable")
    assert code == 0
    for word in (
        "m:v1",
        "TinyForCausalLM",
        "test 0",
        "model.safetensors",
        "no golden answers",
        "the first version",
    ):
        assert word in out

    data = json.loads(run("models", "show", "m:v1", "--json")[1])["data"]
    assert data["held_by"] == ["alias m@stable"]
    assert [event["kind"] for event in data["events"]] == ["version.published", "alias.moved"]
    assert data["files"]["config.json"]["size"] > 0

    assert json.loads(run("models", "show", "m", "--json")[1])["data"]["aliases"] == {"stable": "v1"}
    assert "m@stable -> m:v1" in run("models", "show", "m")[1]


def test_show_prints_golden_answers_and_lineage(run, store, tmp_path):
    from cluster.manifest import Lineage, VersionKind
    from tests.support.version_files import write_model

    answer = GoldenAnswer(
        prompt="Capital?",
        prompt_token_ids=[1],
        answer="Paris.",
        answer_token_ids=[2],
        max_tokens=4,
        top2_margin=0.5,
    )
    golden = Golden(dtype="float32", transformers_version="5.0", answers=[answer])
    store.publish(
        write_model(tmp_path / "s"),
        V1,
        kind=VersionKind.MERGED,
        source_label="run r",
        parent="b:v1",
        lineage=Lineage(run="r", step=40, metrics={"loss": 0.25, "eval_loss": 0.0951234}),
        golden=golden,
    )

    out = run("models", "show", "m:v1")[1]

    for word in ("Capital?", "Paris.", "run r, step 40, eval_loss 0.09512, loss 0.25", "b:v1"):
        assert word in out
    assert "no rollouts" in out


def test_show_tells_a_versions_rollouts_with_their_verdicts(run, two):
    from cluster.state.tables import DecisionRow, RolloutRow

    with two.database.transaction() as session:
        session.add(
            RolloutRow(
                model="m",
                candidate="v2",
                stable="v1",
                phase="rolled_back",
                reason="gate_failed",
                weight=0.0,
            )
        )
        session.add(
            DecisionRow(
                rollout_id=1, seq=1, command="rollback", inputs={"reason": "ttft failed: 2 s"}, outcome={}
            )
        )

    [told] = json.loads(run("models", "show", "m:v2", "--json")[1])["data"]["rollouts"]
    assert (told["id"], told["phase"], told["reason"], told["gate"]) == (
        1,
        "rolled_back",
        "gate_failed",
        None,
    )
    assert "beside v1  rolled_back (gate_failed): ttft failed: 2 s" in run("models", "show", "m:v2")[1]
    assert json.loads(run("models", "show", "m:v1", "--json")[1])["data"]["rollouts"] == []


@pytest.mark.parametrize("name", ["m:v9", "n:v1", "m@prod", "n"])
def test_names_that_are_not_there_end_with_3(run, two, name):
    for verb in ("show", "verify"):
        code, out, _ = run("models", verb, name, "--json")
        assert code == 3
        assert error_of(out)["code"].startswith("models.unknown")


def test_verify_names_the_edited_file_and_ends_with_1(run, two):
    assert run("models", "verify", "--all")[0] == 0
    weights = two.local_dir(V1) / "model.safetensors"
    os.chmod(weights, 0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")

    code, out, err = run("models", "verify", "--all")
    assert code == 1
    assert "m:v1     False  model.safetensors: sha256" in out
    assert "m:v2     True" in out
    assert "model.safetensors" in err
    code, out, _ = run("models", "verify", "m:v1", "--json")
    assert code == 1
    assert "m:v1: model.safetensors" in error_of(out)["message"]
    assert run("models", "verify", "m:v2", "--json")[0] == 0


@pytest.mark.parametrize("arguments", [[], ["m:v1", "--all"]])
def test_verify_wants_one_version_or_all(run, two, arguments):
    assert run("models", "verify", *arguments)[0] == 2


def test_alias_moves_by_compare_and_swap(run, two):
    code, out, err = run("models", "alias", "m@prod", "v1", "--yes", "--reason", "first", "--json")
    assert code == 0
    assert json.loads(out) == {
        "target": "m@prod",
        "applied": True,
        "dry_run": False,
        "detail": {"from": None, "to": "v1"},
    }
    assert "move m@prod from (absent) to v1" in err
    assert two.history(V1)[-1].reason == "first"

    assert run("models", "alias", "m@prod", "m:v2", "--expect", "v1", "--yes")[0] == 0
    code, out, _ = run("models", "alias", "m@prod", "v1", "--expect", "v1", "--yes", "--json")
    assert (code, error_of(out)["code"]) == (1, "alias.moved")
    assert run("models", "alias", "m@prod", "v1", "--expect", "-", "--yes")[0] == 1
    assert two.aliases("m")["prod"] == "v2"
    assert run("models", "alias", "m@prod", "--remove", "--yes")[0] == 0
    assert "prod" not in two.aliases("m")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["m@prod", "v9"], 3),
        (["m@prod", "n:v1"], 2),
        (["m:v1", "v2"], 2),
        (["m", "v2"], 2),
        (["m@prod"], 2),
        (["m@prod", "v1", "--remove"], 2),
        (["m@prod", "m@stable"], 2),
        (["n@prod", "v1"], 3),
    ],
)
def test_alias_refuses_what_makes_no_sense(run, two, arguments, code):
    assert run("models", "alias", *arguments, "--yes")[0] == code
    assert two.aliases("m") == {"stable": "v1"}


def test_an_alias_under_a_traffic_policy_moves_with_it_alone(run, two):
    with two.database.transaction() as session:
        policies.put(session, TrafficPolicy(model="m", revision=1, stable="v1", candidate="v2", weight=10))

    code, out, _ = run("models", "alias", "m@stable", "v2", "--yes", "--json")

    assert (code, error_of(out)["code"]) == (1, "alias.governed")
    assert "rollout" in error_of(out)["hint"]
    assert run("models", "alias", "m@prod", "v2", "--yes")[0] == 0


def test_rm_removes_what_nobody_holds_and_names_who_does(run, two):
    code, out, _ = run("models", "rm", "m:v1", "--yes", "--json")
    assert (code, error_of(out)["code"]) == (1, "models.held")
    with two.database.transaction() as session:
        replicas.report(session, replica="r-1", model="m", version="v2", status=ReplicaStatus.LOADING)
    assert "r-1" in run("models", "rm", "m:v2", "--yes")[2]
    with two.database.transaction() as session:
        replicas.forget(session, "r-1")

    assert run("models", "rm", "m:v2", "--dry-run")[0] == 0
    assert two.labels("m") == ["v1", "v2"]
    assert run("models", "rm", "m:v2", "--yes", "--reason", "blunt")[0] == 0
    assert two.labels("m") == ["v1"]
    assert run("models", "rm", "m:v2", "--yes")[0] == 3
    assert run("models", "rm", "m@stable", "--yes")[0] == 2


def test_without_a_terminal_and_without_yes_nothing_changes(run, two):
    for arguments in (["rm", "m:v2"], ["alias", "m@prod", "v2"], ["import", "smollm2"]):
        code, out, _ = run("models", *arguments, "--json")
        assert (code, error_of(out)["code"]) == (2, "usage.not_confirmed")
    assert two.aliases("m") == {"stable": "v1"}
    assert two.labels("m") == ["v1", "v2"]


def test_gc_shows_and_deletes_leftovers(run, two):
    left = two.storage.local_path("models/m/v7")
    left.mkdir()

    shown = json.loads(run("models", "gc", "--dry-run", "--json")[1])
    assert (shown["detail"]["paths"], shown["applied"], shown["dry_run"]) == (["models/m/v7"], False, True)
    assert left.exists()
    assert run("models", "gc")[0] == 2
    assert "Leftovers deleted: 1." in run("models", "gc", "--yes")[1]
    assert not left.exists()
    assert "Nothing to delete" in run("models", "gc", "--yes")[1]


def test_import_makes_a_version_with_golden_answers(run, store, tmp_path):
    source = make_tiny_model(tmp_path / "Tiny Model")

    code, out, err = run("models", "import", str(source), "--yes", "--json")

    assert code == 0
    shown = json.loads(out)
    assert (shown["target"], shown["applied"]) == ("Tiny-Model:v1", True)
    for stage in ("fetching", "converting", "golden", "publishing"):
        assert stage in err
    ref = store.resolve("Tiny-Model")
    manifest = store.manifest(ref)
    assert len(manifest.golden.answers) >= 4
    assert manifest.chat_template_sha256 is not None
    assert store.verify(ref) == []
    assert list(store.scratch_dir().iterdir()) == []


@pytest.mark.parametrize(
    ("source", "wanted", "code"),
    [
        ("smolm2", None, 3),
        ("./nothing", None, 3),
        ("nothing.gguf", None, 3),
        ("smollm2", "m:v1", 1),
        ("smollm2", "m@stable", 2),
        ("smollm2", "a b:v1", 2),
    ],
)
def test_import_refuses_before_it_asks(run, two, source, wanted, code):
    target = ["--as", wanted] if wanted else []

    assert run("models", "import", source, *target, "--yes")[0] == code
    assert two.models() == ["m"]


def test_an_import_that_fails_or_is_stopped_leaves_nothing(run, store, tmp_path, monkeypatch):
    source = make_tiny_model(tmp_path / "tiny")
    weights = source / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    code, _, err = run("models", "import", str(source), "--yes")
    assert code == 1
    assert "model.safetensors" in err

    weights.write_bytes(whole)
    with monkeypatch.context() as patch:
        patch.setattr("train_jobs.golden.compute", _stopped)
        assert run("models", "import", str(source), "--yes")[0] == 130

    assert store.models() == []
    assert list(store.scratch_dir().iterdir()) == []
    assert run("models", "import", str(source), "--yes")[0] == 0


def _stopped(*_args: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("arguments", [["shwo"], ["list", "--jsno"], ["show"], ["alias"]])
def test_unknown_verbs_and_flags_end_with_2(run, settings, arguments):
    code, out, _ = run("models", *arguments, "--json")

    assert code == 2
    assert error_of(out)["code"] == "usage.arguments"


def test_the_root_option_wins_over_the_environment(run, two, tmp_path):
    code, out, _ = run("models", "list", "--root", str(tmp_path / "other"), "--json")

    assert code == 0
    assert json.loads(out)["data"] == []

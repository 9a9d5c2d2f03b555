import json
import subprocess
import sys

import pytest

from cluster.cli.main import main
from cluster.state.database import open_database
from train_jobs import runs
from train_jobs.runs import RunStatus


def call(capsys, *arguments):
    code = main(["train", *arguments])
    return code, capsys.readouterr()


@pytest.fixture
def spec_file(tmp_path, spec):
    path = tmp_path / "spec.yaml"
    path.write_text(spec.to_yaml())
    return path


@pytest.fixture
def a_run(settings):
    """A run that a dead driver left behind."""
    database = open_database(settings.state_url)
    gone = runs.this_driver("a").model_copy(update={"started": 1.0})
    with database.transaction() as session:
        runs.claim(session, "run-1", driver=gone, spec_sha256="0" * 64, total_steps=8)
    return "run-1"


def test_a_bare_noun_lists(capsys, settings, a_run):
    for arguments in (["--json"], ["list", "--json"]):
        code, out = call(capsys, *arguments)
        assert code == 0
        (row,) = json.loads(out.out)["data"]
        assert (row["run"], row["status"], row["reason"]) == ("run-1", "interrupted", "driver_lost")


def test_show_tells_what_the_demo_reads(capsys, settings, a_run):
    code, out = call(capsys, "show", "run-1", "--json")
    told = json.loads(out.out)
    assert code == 0
    for key in ("status", "reason", "step", "total_steps", "attempts", "steps_redone", "recovered_s",
                "published", "pids"):  # fmt: skip
        assert key in told
    assert call(capsys, "show", "run-1")[0] == 0


@pytest.mark.parametrize("verb", [["show"], ["logs"], ["cancel", "--yes"]])
def test_an_unknown_run_is_not_found(capsys, settings, verb, a_run):
    code, out = call(capsys, verb[0], "run-2", *verb[1:], "--json")
    assert code == 3
    error = json.loads(out.out)["error"]
    assert error["code"] == "train.unknown_run"
    assert "run-1" in error["message"]


def test_a_run_that_ended_cannot_be_cancelled(capsys, settings, a_run):
    code, out = call(capsys, "cancel", "run-1", "--yes", "--json")
    assert code == 1
    assert json.loads(out.out)["error"]["code"] == "train.not_running"


def test_without_confirmation_nothing_starts(capsys, settings, store, spec_file, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, out = call(capsys, "run", str(spec_file), "--json")
    assert code == 2
    assert json.loads(out.out)["error"]["code"] == "usage.not_confirmed"
    assert "Carry" not in out.out
    assert not (settings.home / "runs").exists()


def test_a_dry_run_shows_the_plan_and_changes_nothing(capsys, settings, store, spec_file):
    code, out = call(capsys, "run", str(spec_file), "max_steps=9", "--dry-run", "--json")
    told = json.loads(out.out)
    assert code == 0
    assert (told["applied"], told["dry_run"], told["detail"]["spec"]["max_steps"]) == (False, True, 9)
    assert told["detail"]["room_checked"] is False
    code, out = call(capsys, "run", str(spec_file), "--dry-run")
    assert "no cluster stands whose CPUs and memory to check" in out.out
    assert not (settings.home / "runs").exists()


def test_a_misspelt_key_is_refused_before_anything_starts(capsys, settings, store, spec_file):
    code, out = call(capsys, "run", str(spec_file), "learning_rat=1", "--yes", "--json")
    assert code == 2
    assert "learning_rate" in json.loads(out.out)["error"]["message"]


def test_logs_come_from_the_driver_and_the_last_attempt(capsys, settings, a_run, files):
    files.storage.write_atomic(f"{files.logs}/driver.log", b"encoding\n")
    code, out = call(capsys, "logs", "run-1")
    assert code == 0
    assert out.out == "driver  encoding\n"


def test_a_driver_in_its_last_breath_is_cancelled(capsys, settings):
    database = open_database(settings.state_url)
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], stdout=-1
    )
    child.stdout.readline()
    import psutil

    driver = runs.this_driver("a").model_copy(
        update={"pid": child.pid, "started": psutil.Process(child.pid).create_time()}
    )
    with database.transaction() as session:
        runs.claim(session, "run-1", driver=driver, spec_sha256="0" * 64, total_steps=8)
    code, out = call(capsys, "cancel", "run-1", "--yes", "--json")
    child.stdout.close()
    child.wait()
    assert code == 0
    assert json.loads(out.out)["detail"]["status"] == RunStatus.CANCELLED


def test_the_noun_loads_without_ray_torch_or_transformers():
    probe = (
        "import sys, train_jobs.cli, train_jobs.spec, train_jobs.runs, train_jobs.sft; "
        "print([n for n in ('ray', 'torch', 'transformers', 'vllm') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

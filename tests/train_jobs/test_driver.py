import io

import pytest

from cluster.errors import ConfigError, ConflictError
from train_jobs import checkpoint, driver, encoding_task, ending, fit, inputs, planning, report, sft
from train_jobs.encoded import EncodedData
from train_jobs.encoding import Longest
from train_jobs.ending import Why
from train_jobs.formation import coordinator
from train_jobs.run_files import StepRecord
from train_jobs.spec import PublishSpec


def test_a_finished_run_says_so_and_does_nothing(store, spec, settings, files):
    checkpoint.commit(files, {"a": b"1"}, step=8, attempt=1, world_size=2, metrics={})
    for _ in range(2):
        out = io.StringIO()
        result = driver.train(spec, settings, stream=out)
        assert (result.trained, result.step) == (False, 8)
        assert "finished" in out.getvalue()
        # Also when the driver was killed before it could write that down.
        assert report.describe("run-1", settings)["status"] == "finished"


def test_epochs_are_taken_from_the_run_that_is_resumed(store, spec, settings, files):
    given = spec.model_copy(update={"max_steps": 0, "num_train_epochs": 1.0})
    checkpoint.commit(files, {"a": b"1"}, step=8, attempt=1, world_size=2, metrics={})
    # As long as nobody knows how many steps they are, no checkpoint is the last.
    assert not planning.plan(given, settings).is_done
    files.storage.write_atomic(files.spec, given.with_steps(64).to_yaml().encode())
    todo = planning.plan(given, settings)
    assert (todo.spec.max_steps, todo.is_done) == (8, True)
    out = io.StringIO()
    result = driver.train(given, settings, stream=out)
    assert (result.trained, result.step) == (False, 8)
    assert "all 8 steps" in out.getvalue()
    with pytest.raises(ConflictError, match="num_train_epochs"):
        planning.plan(given.model_copy(update={"num_train_epochs": 2.0}), settings)


class Cluster:
    """In place of Ray: workers that train to `step` and commit it; `digests` are of the data, by path."""

    def __init__(self, files):
        self.files, self.step, self.launches, self.has_room = files, 8, 0, True
        self.digests: dict[str, str] = {}

    def require_room(self, todo, *_):
        if not self.has_room and todo.spec.num_workers > 1:
            raise ConfigError("Too few.", code="train.too_few_cpus", hint="Set `num_workers=1`.")

    def encode(self, spec, settings, base, path, *, packing):
        digest = self.digests.get(path, "0" * 64)
        return EncodedData(
            key="1" * 64, fingerprint=digest, rows=64, samples=64, longest=Longest(), dropped={}
        )

    def fit(self, job, say):
        self.launches += 1
        self.do_a_step()
        checkpoint.commit(self.files, {"a": b"1"}, step=self.step, attempt=1, world_size=2, metrics={})
        return self.step

    def do_a_step(self):
        self.files.add_step(
            StepRecord(
                step=1, loss=0.5, grad_norm=1.0, learning_rate=1e-3, tokens=10, tokens_per_s=5.0,
                step_s=2.0, attempt=1, at=0.0,
            )
        )  # fmt: skip


@pytest.fixture
def cluster(monkeypatch, store, files):
    stand_in = Cluster(files)
    monkeypatch.setattr(driver.runtime, "attach", lambda _: None)
    monkeypatch.setattr(driver, "require_room", stand_in.require_room)
    monkeypatch.setattr(encoding_task, "encode", stand_in.encode)
    monkeypatch.setattr(coordinator, "create", lambda *_: None)
    monkeypatch.setattr(fit, "fit", stand_in.fit)
    return stand_in


def train(spec, settings, **changes):
    return driver.train(spec.model_copy(update=changes), settings, stream=io.StringIO())


def test_a_refusals_own_hint_is_taken(cluster, spec, settings):
    cluster.has_room = False
    with pytest.raises(ConfigError, match="Too few"):
        train(spec, settings)
    assert train(spec, settings, num_workers=1).trained
    with pytest.raises(ConflictError, match="num_workers"):
        train(spec, settings, num_workers=2)


def test_what_decides_nothing_is_stored_as_it_was_last_given(cluster, spec, settings, files):
    train(spec, settings)
    checkpoint.remove_step(files, 8)
    train(spec, settings, save_steps=5)
    assert "save_steps: 5" in files.storage.read_bytes(files.spec).decode()
    assert cluster.launches == 2


def test_a_run_ends_where_it_stopped_getting_better(cluster, spec, settings, files, capsys):
    cluster.step = 5
    result = train(spec, settings)
    assert (result.trained, result.step, result.why) == (True, 5, Why.EARLY_STOPPING)
    sft.show(result, as_json=False)
    assert "finished after 5 steps, since it got no better" in capsys.readouterr().out
    shown = report.describe("run-1", settings)
    assert shown["end"] == {"step": 5, "why": "early_stopping"}
    assert any("stopped after step 5" in line for line in report.render(shown))
    out = io.StringIO()
    again = driver.train(spec, settings, stream=out)
    assert (again.trained, again.step, cluster.launches) == (False, 5, 1)
    assert "stopped after step 5" in out.getvalue()


def test_a_run_whose_last_checkpoint_is_lost_has_not_ended(cluster, spec, settings, files, monkeypatch):
    train(spec, settings)
    checkpoint.remove_step(files, 8)

    def fail(*_):
        raise ConfigError("Too bad.", code="train.test")

    monkeypatch.setattr(fit, "fit", fail)
    with pytest.raises(ConfigError, match="Too bad"):
        train(spec, settings)
    assert ending.read(files) is None


def test_a_trained_run_is_published_where_it_could_not_be_trained(cluster, spec, settings, monkeypatch):
    cluster.step = 5
    train(spec, settings)
    cluster.has_room = False
    published = []
    monkeypatch.setattr(driver._Drive, "_publish", lambda drive: published.extend(drive.todo.missing))
    result = train(spec, settings, publish=PublishSpec(version="v2"))
    assert (published, result.step, cluster.launches) == (["tiny:v2"], 5, 1)


@pytest.mark.parametrize(("part", "code"), [("train", "data"), ("validation", "validation")])
def test_changed_data_are_found_before_a_worker_starts(
    cluster, spec, settings, data_file, tmp_path, part, code
):
    held_out = data_file.with_name("held-out.jsonl")
    held_out.write_bytes(data_file.read_bytes())
    data = spec.data.model_copy(update={"validation": str(held_out)})
    given = {"data": data, "eval_steps": 2}
    inputs.settle(cluster.files, inputs.Inputs(train="x", validation="y", base="z"), has_begun=False)

    cluster.step = 3
    train(spec, settings, **given)
    ending.forget(cluster.files)
    cluster.digests[getattr(data, part)] = "f" * 64
    with pytest.raises(ConflictError) as caught:
        train(spec, settings, **given)
    assert (caught.value.code, cluster.launches) == (f"train.{code}_changed", 1)
    assert all(digest in caught.value.message for digest in ("f" * 12, "0" * 12))

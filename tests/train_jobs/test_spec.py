from pathlib import Path

import pytest

import train_jobs
from cluster.errors import ConfigError, ConflictError, NotFoundError
from train_jobs.spec import BadRows, Optimizer, Tracker, TrainSpec
from train_jobs.spec_files import as_resumed, expand_path, load_spec, parse_stored_spec, require_same

SHIPPED = Path(train_jobs.__file__).parent / "smollm2_sentiment.yaml"
MINIMAL = """\
run: r
model: tiny:v1
data:
  train: data.jsonl
max_steps: 10
learning_rate: 1.0e-3
"""
SHARDED = "num_workers: 2\nparallel: {strategy: fsdp}\n"


@pytest.fixture
def write(tmp_path):
    def _write(extra=""):
        path = tmp_path / "spec.yaml"
        path.write_text(MINIMAL + extra)
        return path

    return _write


def test_the_shipped_spec_loads_and_trains_sixteen_samples_a_step(settings):
    spec = load_spec(SHIPPED, settings=settings)
    assert (spec.global_batch_size, spec.max_steps, spec.save_steps) == (16, 40, 5)
    assert spec.data.train == f"{settings.home}/data/icwsm2014/train.parquet"


def test_dotted_overrides_win_over_the_file(write, settings):
    spec = load_spec(write("peft: {r: 8}\n"), ["peft.r=4", "learning_rate=5e-4", "num_workers=3"], settings)
    assert (spec.peft.r, spec.learning_rate, spec.num_workers) == (4, 5e-4, 3)


def test_an_override_of_a_key_in_a_null_section_makes_the_section(write, settings):
    path = write("quantization: null\npeft: null\n")
    spec = load_spec(path, ["quantization.load_in_4bit=true", "peft.r=4", "data.on_bad_rows=skip"], settings)
    assert spec.quantization.load_in_4bit
    assert spec.peft.r == 4
    assert spec.data.on_bad_rows is BadRows.SKIP


def test_an_unknown_key_is_refused_with_line_and_suggestion(write, settings):
    with pytest.raises(ConfigError) as caught:
        load_spec(write("max_step: 3\n"), settings=settings)
    assert caught.value.code == "config.unknown_key"
    assert ":7:" in caught.value.message
    assert "max_steps" in caught.value.message


def test_a_missing_file_is_not_found(tmp_path, settings):
    with pytest.raises(NotFoundError):
        load_spec(tmp_path / "none.yaml", settings=settings)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("learning_rate: 0\n", "learning_rate"),
        ("lr_scheduler_type: cosin\n", "lr_scheduler_type"),
        ("warmup_ratio: 1.5\n", "warmup_ratio"),
        ("failures: {max_failures: -2}\n", "max_failures"),
        ("publish: {merge: true}\n", "version"),
        ("publish: {merge: false}\n", "nothing to publish"),
        ("publish: {version: v2, adapter_version: v2}\n", "must differ"),
        ("publish: {version: v2, merge: false}\n", "merge"),
        ("run: ../x\n", "run"),
        ("warmup_steps: -1\n", "warmup_steps"),
        ("optim: adamw\n", "adamw_torch"),
        ("method: ppo\n", "sft"),
        ("report_to: [tensorbord]\n", "tensorboard"),
        ("fault_tolerance: ignore\n", "restart"),
        ("workers: {min: 3, max: 2}\n", "`min` 3 is more than `max` 2"),
        ("workers: {min: 1, max: 4}\nnum_workers: 2\n", "`num_workers` or `workers`"),
        ("quantization: {}\n", "exactly one of"),
        ("quantization: {load_in_4bit: true, load_in_8bit: true}\n", "exactly one of"),
        ("quantization: {load_in_4bit: true, bnb_4bit_quant_type: int4}\n", "bnb_4bit_quant_type"),
        ("quantization: {load_in_8bit: true}\npeft: null\n", "needs `peft`"),
        ("peft: null\npublish: {adapter_version: a1, merge: false}\n", "makes no adapter"),
        ("dpo: {beta: 0}\n", "dpo.beta"),
        ("dpo: {label_smoothing: 0.5}\n", "dpo.label_smoothing"),
        ("eval_steps: 5\n", "data.validation"),
        ("early_stopping_patience: 2\n", "needs `eval_steps`"),
        ("load_best_model_at_end: true\n", "needs `eval_steps`"),
        ("failures: {hang_timeout_s: 0}\n", "hang_timeout_s"),
        ("failures: {spike_factor: 1}\n", "spike_factor"),
        ("failures: {on_bad_loss: ignore}\n", "on_bad_loss"),
        ("parallel: {strategy: zero3}\n", "fsdp"),
        ("parallel: {size: 4}\nnum_workers: 2\n", "set `parallel.size=2`"),
        ("parallel: {strategy: fsdp, size: 4}\nnum_workers: 2\n", "set `parallel.size=2`"),
        ("parallel: {strategy: fsdp}\n", "set `num_workers=2`"),
        ("parallel: {strategy: fsdp}\nworkers: {min: 1, max: 4}\n", "give `num_workers=4` and no `workers`"),
        (f"{SHARDED}fault_tolerance: continue\n", "set `fault_tolerance=restart`"),
        (f"{SHARDED}quantization: {{load_in_8bit: true}}\n", "set `quantization=null`"),
        (f"{SHARDED}optim: adamw_bnb_8bit\n", "set `optim=adamw_torch`"),
        (f"{SHARDED}method: dpo\npeft: null\n", "`peft={}`"),
    ],
)
def test_bad_values_are_refused_by_name(write, settings, line, key):
    with pytest.raises(ConfigError, match=key):
        load_spec(write(line), settings=settings)


def test_a_fixed_group_goes_on_at_full_strength_alone(write, settings):
    spec = load_spec(write("num_workers: 3\n"), settings=settings)
    assert (spec.slots, spec.min_workers) == (3, 3)


@pytest.mark.parametrize("size", ["", ", size: 2"])
def test_shards_need_every_worker(write, settings, size):
    spec = load_spec(write(f"num_workers: 2\nparallel: {{strategy: fsdp{size}}}\n"), settings=settings)
    assert (spec.is_sharded, spec.slots, spec.min_workers) == (True, 2, 2)
    assert not load_spec(write("num_workers: 2\n"), settings=settings).is_sharded


@pytest.mark.parametrize("number", ["", "num_workers: 4\n"])
def test_an_elastic_group_has_a_slot_for_each_of_its_most(write, settings, number):
    spec = load_spec(write(f"workers: {{min: 2, max: 4}}\n{number}"), settings=settings)
    assert (spec.slots, spec.min_workers) == (4, 2)


def test_a_step_is_slots_times_accumulation_times_rows(write, settings):
    lines = "num_workers: 3\ngradient_accumulation_steps: 2\nper_device_train_batch_size: 5\n"
    spec = load_spec(write(lines), settings=settings)
    assert (spec.microbatches, spec.global_batch_size) == (6, 30)


def test_paths_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("CORPUS", "/corpus")
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.chdir(tmp_path)
    assert expand_path("${LINNET_HOME}/data", Path("/l")) == "/l/data"
    assert expand_path("$CORPUS/a.parquet", Path("/l")) == "/corpus/a.parquet"
    assert expand_path("~/a", Path("/l")) == "/home/ada/a"
    assert expand_path("a.jsonl", Path("/l")) == str(tmp_path / "a.jsonl")


def test_an_unset_variable_is_named(monkeypatch):
    monkeypatch.delenv("CORPUS", raising=False)
    with pytest.raises(ConfigError, match="CORPUS") as caught:
        expand_path("$CORPUS/a", Path("/l"))
    assert "LINNET_HOME" in caught.value.hint


def test_the_stored_spec_reads_back_as_the_same(write, settings):
    spec = load_spec(
        write("publish: {version: v2}\npeft: {target_modules: [q_proj, v_proj]}\n"), settings=settings
    )
    require_reads_back(spec)


def test_a_spec_of_every_kind_of_key_reads_back_as_the_same(write, settings):
    lines = """\
method: dpo
optim: adamw_bnb_8bit
bf16: true
quantization: {load_in_4bit: true, bnb_4bit_use_double_quant: true}
dpo: {beta: 0.2}
workers: {min: 1, max: 2}
standby: 1
fault_tolerance: continue
failures: {max_failures: -1, on_bad_loss: skip, spike_factor: 4, on_mismatch: warn}
report_to: [tensorboard, wandb]
"""
    spec = load_spec(write(lines), ["eval_steps=5", "data.validation=held_out.jsonl"], settings)
    assert spec.report_to == (Tracker.TENSORBOARD, Tracker.WANDB)
    assert (spec.optim, spec.failures.max_failures) == (Optimizer.ADAMW_8BIT, -1)
    require_reads_back(spec)


def require_reads_back(spec):
    again = parse_stored_spec(spec.to_yaml(), "spec.yaml")
    assert again == spec
    assert again.sha256 == spec.sha256
    require_same(again, spec)


def test_a_changed_spec_conflicts_and_every_differing_key_is_named(spec: TrainSpec):
    changed = spec.model_copy(
        update={"max_steps": 9, "peft": spec.peft.model_copy(update={"r": 2}), "seed": 1}
    )
    with pytest.raises(ConflictError) as caught:
        require_same(spec, changed)
    assert all(f"`{key}`" in caught.value.message for key in ("max_steps", "peft.r", "seed"))
    assert "`learning_rate`" not in caught.value.message


def test_epochs_become_steps_when_the_samples_are_counted(write, settings):
    path = write()
    path.write_text(path.read_text().replace("max_steps: 10", "num_train_epochs: 2"))
    spec = load_spec(path, ["per_device_train_batch_size=8"], settings)
    assert (spec.max_steps, spec.with_steps(64).max_steps, spec.with_steps(65).max_steps) == (0, 16, 17)
    part = spec.model_copy(update={"num_train_epochs": 0.1, "per_device_train_batch_size": 3})
    # In binary, a tenth of 30 is a little more than 3.
    assert [part.with_steps(samples).max_steps for samples in (1, 30, 31)] == [1, 1, 2]
    require_reads_back(spec.with_steps(64))


def test_steps_that_are_given_stay_as_they_are(spec):
    assert spec.with_steps(10**6) == spec


@pytest.mark.parametrize("override", ["num_train_epochs=2", "num_train_epochs=0.5"])
def test_steps_and_epochs_together_are_refused(write, settings, override):
    with pytest.raises(ConfigError, match="num_train_epochs") as caught:
        load_spec(write(), [override], settings)
    assert caught.value.code == "train.steps_and_epochs"
    assert load_spec(write(), [override, "max_steps=0"], settings).max_steps == 0


@pytest.mark.parametrize("override", ["max_steps=0", "num_train_epochs=0", "num_train_epochs=.inf"])
def test_neither_steps_nor_epochs_and_epochs_that_are_none_are_refused(write, settings, override):
    with pytest.raises(ConfigError, match=r"max_steps|num_train_epochs"):
        load_spec(write(), [override], settings)


def test_a_run_of_epochs_is_resumed_by_the_spec_as_it_is_written(spec):
    given = spec.model_copy(update={"max_steps": 0, "num_train_epochs": 2.0})
    stored = given.with_steps(64)
    assert as_resumed(given, stored) == stored
    require_same(stored, as_resumed(given, stored))
    changed = given.model_copy(update={"num_train_epochs": 3.0})
    with pytest.raises(ConflictError) as caught:
        require_same(stored, as_resumed(changed, stored))
    assert "`num_train_epochs`" in caught.value.message
    assert "`max_steps`" not in caught.value.message


def test_epochs_of_data_that_have_changed_are_refused(spec):
    stored = spec.model_copy(update={"max_steps": 0, "num_train_epochs": 2.0}).with_steps(64)
    with pytest.raises(ConflictError) as caught:
        stored.with_steps(80)
    assert caught.value.code == "train.data_changed"
    assert all(number in caught.value.message for number in ("80", "20", "16"))

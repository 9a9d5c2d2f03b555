import json
import os
import shutil
import subprocess
import sys

import pytest

from cluster.manifest import VersionKind
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from train_jobs.base_config import BaseConfig, read_config
from train_jobs.encoding import Longest
from train_jobs.memory import memory_estimate
from train_jobs.parallel import ParallelSpec, Strategy
from train_jobs.spec import (
    DataSpec,
    FaultTolerance,
    Method,
    Optimizer,
    PeftSpec,
    QuantizationSpec,
    TrainSpec,
    WorkersSpec,
)

NF4 = QuantizationSpec(load_in_4bit=True)
INT8 = QuantizationSpec(load_in_8bit=True)
BILLION, GIB = 10**9, 2**30
SMOLLM = BaseConfig(width=576, layers=30, vocabulary=49152, context=8192)


def make_spec(**keys) -> TrainSpec:
    return TrainSpec(run="r", model="m:v1", data=DataSpec(train="d"), max_steps=1, learning_rate=0.01, **keys)


@pytest.mark.parametrize("parameters", [30_000_000, 135_000_000, BILLION, 70 * BILLION])
def test_full_training_needs_more_than_lora_and_lora_more_than_qlora(parameters):
    full, lora, int8, nf4 = (
        memory_estimate(make_spec(**keys), parameters)
        for keys in ({"peft": None}, {}, {"quantization": INT8}, {"quantization": NF4})
    )
    assert full > lora > int8 > nf4


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ({"peft": None, "method": Method.DPO}, {"peft": None}),
        ({"method": Method.DPO}, {}),
        ({"peft": None}, {"peft": None, "optim": Optimizer.ADAMW_8BIT}),
        ({"peft": None, "optim": Optimizer.ADAMW_8BIT}, {"peft": None, "optim": Optimizer.SGD}),
        ({}, {"gradient_checkpointing": True}),
        ({}, {"bf16": True}),
        ({}, {"per_device_train_batch_size": 2}),
        ({}, {"max_length": 128}),
        ({"peft": PeftSpec(r=256)}, {}),
    ],
)
def test_what_takes_more_memory_is_estimated_higher(more, less):
    assert memory_estimate(make_spec(**more), BILLION) > memory_estimate(make_spec(**less), BILLION)


def test_shards_take_less_the_more_workers_there_are_but_never_less_than_loading_the_base():
    shares = [
        memory_estimate(
            make_spec(
                peft=None,
                max_length=64,
                num_workers=size,
                parallel=ParallelSpec(strategy=Strategy.FSDP if size > 1 else Strategy.DDP),
            ),
            BILLION,
        )
        for size in (1, 2, 8, 1000)
    ]
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) == len(shares)
    assert shares[-1] > 4 * BILLION


def test_rows_that_are_shorter_than_allowed_count_as_they_are():
    spec = make_spec(max_length=4096)

    def estimate(tokens, answers):
        return memory_estimate(spec, BILLION, longest=Longest(tokens=tokens, answers=answers))

    assert estimate(64, 64) < estimate(128, 64) < memory_estimate(spec, BILLION)
    assert estimate(9999, 9999) == memory_estimate(spec, BILLION)
    # Logits are there for answers alone.
    assert estimate(1024, 2) < estimate(1024, 200)


def test_short_rows_in_small_models_have_room_on_a_small_machine():
    """The first spec of docs/training.md, of a model of 135 million parameters."""
    spec = make_spec(num_workers=2)
    assert 2 * memory_estimate(spec, 135 * 10**6, SMOLLM, Longest(tokens=60, answers=60)) < 4 * GIB


def test_logits_of_a_large_vocabulary_count():
    spec = make_spec(gradient_checkpointing=True)
    assert memory_estimate(spec, 135 * 10**6, SMOLLM) > 8 * 1024 * 49152 * 12


def test_an_evaluation_in_larger_microbatches_counts():
    spec = make_spec(per_device_train_batch_size=1, per_device_eval_batch_size=64)
    validated = DataSpec(train="d", validation="v")
    evaluated = spec.model_copy(update={"data": validated, "eval_steps": 5})
    assert memory_estimate(evaluated, BILLION) > memory_estimate(spec, BILLION) + 63 * 1024 * 50_000 * 7


def test_a_lone_survivor_holds_the_gradients_of_all_slots():
    elastic = [make_spec(peft=None, workers=WorkersSpec(min=least, max=8), max_length=64) for least in (1, 8)]
    alone, together = (memory_estimate(spec, BILLION) for spec in elastic)
    # Nine of them with their sum, against what eight workers exchange.
    assert alone - together > 3 * 4 * BILLION


def test_survivors_that_prove_a_checkpoint_keep_their_own_state_meanwhile():
    proving = make_spec(peft=None)
    going_on = make_spec(peft=None, fault_tolerance=FaultTolerance.CONTINUE)
    more = memory_estimate(proving, BILLION) - memory_estimate(going_on, BILLION)
    assert more == pytest.approx(12 * BILLION)


MEASURE = """
import json, sys
from contextlib import nullcontext
from pathlib import Path
import torch
from cluster.config import Settings
from cluster.refs import VersionRef
from train_jobs.dataset import load_dataset
from train_jobs.formation.group import Group
from train_jobs.loop import Wishes
from train_jobs.spec import TrainSpec
from train_jobs.state import Kept
from train_jobs.trainee import Trainee

def train(version):
    base = VersionRef(model="measured", version=version)
    data = load_dataset(spec, Path(tokenizer), spec.data.train)
    trainee = Trainee(spec, Settings.load(), base, data, lambda: False)
    trainee.warm()
    trainee.take_part(Group(), nullcontext)
    trainee.loop.run_step(1, Group(), Wishes(), lambda *_: None)
    # One is written while the next is taken; and a survivor proves a checkpoint.
    with trainee.snapshots.take(), trainee.snapshots.take():
        kept = Kept(trainee.layout)
        trainee.loop.run_step(2, Group(), Wishes(), lambda *_: None)
        kept.put_back()
        # Not ru_maxrss, which begins with what the parent process had.
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

torch.set_num_threads(1)
tokenizer, text = sys.argv[1:]
spec = TrainSpec.model_validate_json(text)
# A tiny model first brings in all that is imported on the way.
without = train("tiny")
print(train("big") - without)
"""

VOCABULARY = 32_000


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model of 45 million parameters that reads 32,000 tokens; its directory and their number."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=9,
        num_attention_heads=8,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    directory = tmp_path_factory.mktemp("memory") / "model"
    model.save_pretrained(directory)
    return directory, model.num_parameters()


@pytest.fixture
def text_rows(tmp_path):
    """Loss is taken on all of them; a character is a token."""
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": "ab" * 127}) for _ in range(64)))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [
        {"peft": None},
        {},
        {"gradient_checkpointing": True},
        {"peft": None, "workers": WorkersSpec(min=1, max=4), "gradient_checkpointing": True},
    ],
    ids=["full", "lora", "checkpointing", "lone-survivor"],
)
def test_the_estimate_is_within_a_third_of_what_a_process_grows_by(
    base, text_rows, tiny_dir, settings, tmp_path, keys
):
    directory, parameters = base
    spec = make_spec(per_device_train_batch_size=4, max_length=256, **keys)
    spec = spec.model_copy(update={"data": DataSpec(train=text_rows)})
    whole = tmp_path / "big"
    shutil.copytree(tiny_dir, whole)
    shutil.copytree(directory, whole, dirs_exist_ok=True)
    store = ModelStore.open(settings)
    for version, source in (("tiny", tiny_dir), ("big", whole)):
        ref = VersionRef(model="measured", version=version)
        store.publish(source, ref, kind=VersionKind.BASE, source_label="tests")
    # Freed memory goes back at once, so that the peak is of what was in use.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tiny_dir), spec.model_dump_json()],
        capture_output=True,
        text=True,
        check=True,
        env=env,
    )
    config = read_config(store.storage, VersionRef(model="measured", version="big"))
    assert config.vocabulary == VOCABULARY
    grown = int(done.stdout)
    estimate = memory_estimate(spec, parameters, config, Longest(tokens=256, answers=256))
    assert 0.75 < estimate / grown < 1.33


def test_the_module_needs_no_torch():
    code = "import sys, train_jobs.memory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

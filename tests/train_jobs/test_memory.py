import os
import subprocess
import sys

import pytest

from train_jobs.memory import memory_estimate
from train_jobs.parallel import ParallelSpec, Strategy
from train_jobs.spec import DataSpec, Method, Optimizer, PeftSpec, QuantizationSpec, TrainSpec

NF4 = QuantizationSpec(load_in_4bit=True)
INT8 = QuantizationSpec(load_in_8bit=True)
BILLION = 10**9


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
    assert memory_estimate(spec, BILLION, longest_row=64) < memory_estimate(spec, BILLION)
    assert memory_estimate(spec, BILLION, longest_row=9999) == memory_estimate(spec, BILLION)


MEASURE = """
import sys
from pathlib import Path
import torch
from train_jobs import model as models, optimizers, state
from train_jobs.layout import Whole
from train_jobs.spec import TrainSpec

def train(directory):
    model = models.build(spec, Path(directory), "m:v1").train()
    optimizer = optimizers.make_optimizer(spec, models.trainable(model))
    ids = torch.randint(3, 250, (spec.per_device_train_batch_size, spec.max_length))
    labels = torch.full_like(ids, -100)
    labels[:, -2:] = 5
    models.summed_loss(model, models.Batch(ids, torch.ones_like(ids), labels)).backward()
    optimizer.step()
    with state.Snapshots(Whole(model, optimizer)).take():
        # Not ru_maxrss, which begins with what the parent process had.
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

torch.set_num_threads(1)
tiny, big, text = sys.argv[1:]
spec = TrainSpec.model_validate_json(text)
# A tiny model first brings in all that is imported on the way.
without = train(tiny)
print(train(big) - without)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model of 29 million parameters; its directory and their number."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=9,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    model = LlamaForCausalLM(config)
    directory = tmp_path_factory.mktemp("memory") / "model"
    model.save_pretrained(directory)
    return directory, model.num_parameters()


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [
        {"peft": None, "max_length": 64},
        {"max_length": 256},
        {"max_length": 256, "gradient_checkpointing": True},
    ],
    ids=["full", "lora", "checkpointing"],
)
def test_the_estimate_is_within_a_factor_of_two_of_what_a_process_grows_by(base, tiny_dir, keys):
    directory, parameters = base
    spec = make_spec(per_device_train_batch_size=2, **keys)
    # Freed memory goes back at once, so that the peak is of what was in use.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tiny_dir), str(directory), spec.model_dump_json()],
        capture_output=True,
        text=True,
        check=True,
        env=env,
    )
    grown, estimate = int(done.stdout), memory_estimate(spec, parameters)
    assert 0.5 < estimate / grown < 2


def test_the_module_needs_no_torch():
    code = "import sys, train_jobs.memory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

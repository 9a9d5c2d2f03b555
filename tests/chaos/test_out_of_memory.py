"""A microbatch too large for one worker's memory: the run goes on in smaller ones, with the same batches."""

import json
import re
import resource
from pathlib import Path

import psutil
import pytest

from cluster.manifest import VersionKind
from cluster.recovery.classes import FailureClass
from cluster.recovery.situation import Strategy
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from tests.chaos.checking import proven, same_steps
from tests.chaos.reference import uninterrupted
from tests.support.tiny_model import make_tiny_model
from train_jobs.spec import PeftSpec

# Ray Data, which Ray Train imports, warns of its own settings.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

ROWS, TOKENS, VOCABULARY = 4, 320, 65_536
LOGITS_BYTES = ROWS * TOKENS * VOCABULARY * 4


@pytest.fixture
def base(settings, tmp_path):
    """A model whose logits are most of what a step needs, as tiny:wide."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = make_tiny_model(tmp_path / "wide")
    config = LlamaConfig.from_pretrained(directory, local_files_only=True)
    config.vocab_size = VOCABULARY
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(directory)
    ref = VersionRef(model="tiny", version="wide")
    ModelStore.open(settings).publish(directory, ref, kind=VersionKind.BASE, source_label="tests")
    return ref


@pytest.fixture
def spec(spec, base, tmp_path):
    path = tmp_path / "long.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Count from {number}."},
                {"role": "assistant", "content": f"{number} " * (TOKENS // 3)},
            ]
        }
        for number in range(10, 42)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return spec.model_copy(
        update={
            "model": str(base),
            "data": spec.data.model_copy(update={"train": str(path)}),
            # Without dropout, whose draws depend on how a microbatch is cut.
            "peft": PeftSpec(r=4),
            "max_steps": 12,
            "eval_steps": None,
            "per_device_train_batch_size": ROWS,
        }
    )


def take_away_memory(stage):
    """From now on one worker has less address space than the most that it ever needed; its pid."""
    stage.until(lambda: stage.step >= 4, "step 4")
    pid = stage.members()[0]
    peak = int(re.search(r"VmPeak:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) * 1024
    process = psutil.Process(pid)
    process.rlimit(resource.RLIMIT_AS, (peak - LOGITS_BYTES // 2, process.rlimit(resource.RLIMIT_AS)[1]))
    return pid


def test_a_worker_without_memory_goes_on_in_smaller_microbatches(meddled, spec, settings):
    calm = uninterrupted(spec, settings)
    stage, pid = meddled(spec, take_away_memory)
    (receipt,) = stage.receipts()
    assert (receipt.failure_class, receipt.strategy, receipt.victim.pid) == (
        FailureClass.OUT_OF_MEMORY,
        Strategy.SHRINK_MICROBATCH,
        pid,
    ), receipt
    assert receipt.steps_redone == 0
    assert pid in {worker.pid for worker in stage.attempts()[-1].workers}, "its process was to stay"
    same_steps(stage, calm, exactly=False)
    proven(stage, settings)

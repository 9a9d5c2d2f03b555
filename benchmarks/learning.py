"""What the real model learns: SFT with LoRA and with QLoRA, and DPO, all scored on rows that were held out.

Trains the built-in SmolLM2-135M-Instruct by `linnet train run` with the specs of train_jobs/. SFT is scored
by the share of held-out snippets whose label is the first that the model names, DPO by how far the right
answers of the held-out pairs lead the wrong ones (`rewards/margins`, 0 before training).

    python benchmarks/learning.py [--json] [--only lora qlora dpo]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.config import Settings
from cluster.demo.figures import first_label
from cluster.demo.rolling import HeldOut, read_snippets
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from cluster.storage import Storage
from train_jobs.run_files import RunFiles

ACCURACY_ASK = 0.85
_ROOT = Path(__file__).resolve().parents[1]
_BASE = VersionRef(model="smollm2", version="v1")
_SNIPPETS, _ROWS, _LABEL_TOKENS = 200, 16, 6
_SFT, _DPO = "train_jobs/smollm2_sentiment.yaml", "train_jobs/smollm2_dpo.yaml"
CASES = {
    "lora": (_SFT, []),
    "qlora": (_SFT, ["quantization.load_in_4bit=true"]),
    "dpo": (_DPO, []),
}


def linnet(*arguments: str) -> None:
    """Run a command of Linnet; its progress goes to stderr."""
    command = [str(Path(sys.executable).parent / "linnet"), *arguments]
    subprocess.run(command, cwd=_ROOT, check=True, stdout=sys.stderr)


@contextmanager
def home() -> Iterator[Settings]:
    """A home of its own with the model, the data and a cluster, all of which end with it."""
    with tempfile.TemporaryDirectory(prefix="linnet-bench-", ignore_cleanup_errors=True) as directory:
        os.environ["LINNET_HOME"] = directory
        linnet("models", "import", _BASE.model, "--as", str(_BASE), "--yes")
        linnet("data", "prepare", "icwsm2014", "--yes")
        linnet("data", "prepare", "icwsm2014-preferences", "--yes")
        linnet("up")
        try:
            yield Settings.load()
        finally:
            linnet("down")


def train(case: str, settings: Settings) -> tuple[RunFiles, float]:
    """One run without publishing; its files and seconds."""
    spec, overrides = CASES[case]
    began = time.monotonic()
    linnet("train", "run", spec, f"run={case}", "publish=null", *overrides, "--yes")
    return RunFiles(Storage(settings.root), case), time.monotonic() - began


def accuracy(settings: Settings, adapter: Path | None) -> float:
    """The share of held-out snippets whose label is the first that the model names."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = ModelStore.open(settings).local_dir(_BASE)
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left", local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype="float32", local_files_only=True)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    held_out = read_snippets(settings.home / "data" / "icwsm2014" / "test.parquet", _SNIPPETS)
    known = sorted({snippet.label for snippet in held_out})
    right = 0
    for start in range(0, len(held_out), _ROWS):
        few = held_out[start : start + _ROWS]
        texts = answers(model, tokenizer, few)
        right += sum(
            first_label(text, known) == snippet.label for text, snippet in zip(texts, few, strict=True)
        )
    return right / len(held_out)


def answers(model: Any, tokenizer: Any, snippets: Sequence[HeldOut]) -> list[str]:
    """Greedy answers, cut after a few tokens."""
    import torch

    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "system", "content": s.system}, {"role": "user", "content": s.text}],
            add_generation_prompt=True,
            tokenize=False,
        )
        for s in snippets
    ]
    given = tokenizer(prompts, padding=True, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        told = model.generate(
            **given, max_new_tokens=_LABEL_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
    new = told[:, given["input_ids"].shape[1] :]
    texts: list[str] = tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def adapter_of(files: RunFiles) -> Path:
    """The newest checkpoint, which PEFT reads as it is."""
    from train_jobs import checkpoint

    newest = checkpoint.discover(files).newest
    if newest is None:
        raise RuntimeError(f"the run {files.run} has no checkpoint")
    return Path(files.storage.local_path(newest.directory))


def measure(cases: Sequence[str]) -> dict[str, float]:
    """Every case once."""
    figures: dict[str, float] = {}
    with home() as settings:
        if set(cases) - {"dpo"}:
            figures["base.accuracy"] = accuracy(settings, None)
        for case in cases:
            files, seconds = train(case, settings)
            figures[f"{case}.seconds"] = round(seconds, 1)
            if case != "dpo":
                figures[f"{case}.accuracy"] = accuracy(settings, adapter_of(files))
                continue
            evaluations = [step.eval for step in files.read_steps() if step.eval]
            for name in ("eval_rewards/margins", "eval_rewards/accuracies", "eval_loss"):
                figures[f"dpo.{name}"] = round(evaluations[-1][name], 4)
    return figures


def asks(figures: dict[str, float]) -> list[dict[str, Any]]:
    """What was asked for, and whether it holds."""
    found = [
        {"what": name, "limit": f">= {ACCURACY_ASK}", "value": value, "met": value >= ACCURACY_ASK}
        for name, value in figures.items()
        if name in ("lora.accuracy", "qlora.accuracy")
    ]
    if (margin := figures.get("dpo.eval_rewards/margins")) is not None:
        found.append({"what": "margin on held-out pairs", "limit": "> 0", "value": margin, "met": margin > 0})
    return found


def main() -> None:
    """Measure and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    arguments = parser.parse_args()
    figures = measure(arguments.only)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if arguments.json:
        told = {"name": "learning", "machine": machine, "figures": figures, "asks": asks(figures)}
        sys.stdout.write(json.dumps(told) + "\n")
        return
    lines = [machine, *(f"  {name:<30} {value:>10}" for name, value in figures.items())]
    lines += [
        f"  {'met   ' if ask['met'] else 'MISSED'} {ask['what']}: {ask['value']} (ask {ask['limit']})"
        for ask in asks(figures)
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

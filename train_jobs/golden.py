"""Golden answers: what transformers says, greedily in float32, and what a replica must say to be let in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.manifest import Golden, GoldenAnswer
from train_jobs.quiet import no_progress_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_TOKENS = 20
# Long enough to reach the matrix kernels that prefill uses: faults there stay hidden below 8 tokens.
DEFAULT_PROMPTS = (
    "What is the capital of France? Answer in one short sentence.",
    "List the first six prime numbers, separated by commas.",
    "Translate the sentence 'I would like a cup of tea, please.' into French.",
    "Explain in two sentences why the sky looks blue during the day and red at sunset.",
)
_ONE_THREAD_BELOW = 1_000_000_000
_MAX_THREADS = 8


def compute(
    model_dir: Path, *, adapter_dir: Path | None = None, prompts: Sequence[str] | None = None
) -> Golden:
    """Greedy answers, in float32 on the CPU, to the default prompts followed by `prompts`.

    With `adapter_dir` the PEFT adapter there is put on the model of `model_dir`. Where the tokenizer
    has a chat template each prompt is one user turn with the generation prompt, else plain text.
    """
    import torch
    import transformers

    wanted = list(dict.fromkeys([*DEFAULT_PROMPTS, *(prompts or ())]))
    with no_progress_bars():
        model, tokenizer = _load(model_dir, adapter_dir)
    with _few_threads(model.num_parameters()), torch.inference_mode():
        answers = [_answer(model, tokenizer, prompt) for prompt in wanted]
    return Golden(dtype="float32", transformers_version=transformers.__version__, answers=answers)


def prompt_token_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The ids that a replica receives for `prompt`: templated as one user turn where there is a template."""
    if getattr(tokenizer, "chat_template", None):
        turns = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return list(tokenizer(prompt)["input_ids"])


def _load(model_dir: Path, adapter_dir: Path | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    if adapter_dir is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter_dir, torch_device="cpu")
    return model.eval(), tokenizer


def _answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> GoldenAnswer:
    given = prompt_token_ids(tokenizer, prompt)
    ids, margin = _greedy(model, given, _stop_ids(model, tokenizer))
    return GoldenAnswer(
        prompt=prompt,
        prompt_token_ids=given,
        answer=tokenizer.decode(ids, skip_special_tokens=True),
        answer_token_ids=ids,
        max_tokens=MAX_TOKENS,
        top2_margin=margin,
    )


def _greedy(model: PreTrainedModel, given: list[int], stops: set[int]) -> tuple[list[int], float]:
    """Answer ids, a stop id included, and the smallest gap between the two best logits on the way."""
    import torch

    ids: list[int] = []
    margin = float("inf")
    step, cache = torch.tensor([given]), None
    while len(ids) < MAX_TOKENS and not (ids and ids[-1] in stops):
        output = model(input_ids=step, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        best = torch.topk(output.logits[0, -1].float(), 2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
        step = torch.tensor([[ids[-1]]])
    return ids, margin


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = configured if isinstance(configured, list) else [configured]
    return {int(i) for i in (*ids, tokenizer.eos_token_id) if i is not None}


@contextmanager
def _few_threads(parameters: int) -> Iterator[None]:
    """One thread for a small model: decoding waits for memory, and threads that share cores spin."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if parameters < _ONE_THREAD_BELOW else min(before, _MAX_THREADS))
    try:
        yield
    finally:
        torch.set_num_threads(before)

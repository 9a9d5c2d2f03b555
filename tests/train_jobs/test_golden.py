import pytest

from cluster import extensions
from tests.support.tiny_model import make_tiny_model
from train_jobs.golden import DEFAULT_PROMPTS, MAX_TOKENS, compute


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("golden") / "tiny", seed=3)


@pytest.fixture(scope="module")
def golden(model_dir):
    return compute(model_dir)


def test_the_control_plane_finds_it_by_name():
    assert extensions.load(extensions.PROVIDERS, "golden_answers") is compute


def test_every_default_prompt_is_answered_and_long_enough_to_show_faults(golden):
    assert [answer.prompt for answer in golden.answers] == list(DEFAULT_PROMPTS)
    assert all(len(answer.prompt_token_ids) > 8 for answer in golden.answers)
    assert all(
        1 <= len(answer.answer_token_ids) <= answer.max_tokens == MAX_TOKENS for answer in golden.answers
    )
    assert golden.dtype == "float32"


def test_it_is_deterministic(golden, model_dir):
    assert compute(model_dir) == golden


def test_it_equals_what_generate_says(golden, model_dir):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    for answer in golden.answers:
        given = tokenizer.apply_chat_template(
            [{"role": "user", "content": answer.prompt}], add_generation_prompt=True, return_tensors="pt"
        )["input_ids"]
        assert given[0].tolist() == answer.prompt_token_ids
        said = model.generate(given, max_new_tokens=MAX_TOKENS, do_sample=False, attention_mask=given.ne(-1))
        assert said[0, given.shape[1] :].tolist() == answer.answer_token_ids
        assert tokenizer.decode(answer.answer_token_ids, skip_special_tokens=True) == answer.answer


def test_the_margin_is_the_smallest_gap_on_the_way(golden, model_dir):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    answer = golden.answers[0]
    whole = torch.tensor([answer.prompt_token_ids + answer.answer_token_ids])
    with torch.inference_mode():
        logits = model(whole).logits[0, len(answer.prompt_token_ids) - 1 : -1]
    best = logits.topk(2).values

    assert float((best[:, 0] - best[:, 1]).min()) == pytest.approx(answer.top2_margin, abs=1e-3)


def test_own_prompts_come_after_the_defaults_once_each(model_dir):
    found = compute(model_dir, prompts=["one two three", "one two three", DEFAULT_PROMPTS[0]])

    assert [answer.prompt for answer in found.answers] == [*DEFAULT_PROMPTS, "one two three"]


def test_without_a_chat_template_the_prompt_is_plain_text(tmp_path):
    from transformers import AutoTokenizer

    plain = make_tiny_model(tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()

    answer = compute(plain).answers[0]

    assert answer.prompt_token_ids == AutoTokenizer.from_pretrained(plain)(answer.prompt)["input_ids"]


def test_an_answer_stops_after_the_end_of_sequence(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    model = make_tiny_model(tmp_path / "ends")
    weights = load_file(model / "model.safetensors")
    # Every other token gets no score at all, whatever the model thinks: it ends at once.
    weights["lm_head.weight"] = torch.zeros_like(weights["lm_head.weight"])
    weights["model.norm.weight"] = torch.zeros_like(weights["model.norm.weight"])
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    config = (model / "generation_config.json").read_text()
    (model / "generation_config.json").write_text(
        config.replace('"eos_token_id": 2', '"eos_token_id": [0, 2]')
    )

    answers = compute(model).answers

    assert [answer.answer_token_ids for answer in answers] == [[0]] * len(answers)
    assert all(answer.top2_margin == 0.0 for answer in answers)


def test_an_adapter_changes_the_answers_and_its_merged_form_gives_the_same(model_dir, golden, tmp_path):
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    tuned = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "adapter")

    found = compute(model_dir, adapter_dir=tmp_path / "adapter")

    assert found.answers != golden.answers
    fresh = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    PeftModel.from_pretrained(fresh, tmp_path / "adapter").merge_and_unload().save_pretrained(
        tmp_path / "merged"
    )
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(tmp_path / "merged")
    merged = compute(tmp_path / "merged")
    assert [a.answer_token_ids for a in merged.answers] == [a.answer_token_ids for a in found.answers]


def test_threads_and_progress_bars_are_left_as_they_were(model_dir, golden):
    import torch
    from transformers.utils import logging

    threads = torch.get_num_threads()
    compute(model_dir)

    assert torch.get_num_threads() == threads
    assert logging.is_progress_bar_enabled()

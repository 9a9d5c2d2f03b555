from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError
from tests.train_jobs.data.conftest import TEMPLATE
from train_jobs.data.records import Dropped, Encoded, EncodedPair, Example, Message, Pair
from train_jobs.data.rendering import IGNORED, encode, encode_all, encode_pairs

LIMIT = 4096

WITH_GENERATION_BLOCK = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "A:{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}U:{{ message['content'] }}{% endif %}{% endfor %}"
)
FORGETFUL = (
    "{% for message in messages %}"
    "{{ message['role'] }}:"
    "{% if loop.last or message['role'] != 'assistant' %}{{ message['content'] }}{% endif %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for message in messages %}{{ message['role'] }}:{{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def chat(*contents, system=None):
    roles = ("user", "assistant")
    messages = [Message(roles[place % 2], content) for place, content in enumerate(contents)]
    return Example([Message("system", system), *messages] if system else messages, "x")


def trained(encoded, tokenizer):
    """Stretches of text that take loss."""
    stretches, current = [], []
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        assert label in (token, IGNORED)
        if label == IGNORED and current:
            stretches.append(tokenizer.decode(current))
            current = []
        elif label != IGNORED:
            current.append(token)
    return [*stretches, tokenizer.decode(current)] if current else stretches


def template_ids(example, tokenizer):
    turns = [{"role": m.role, "content": m.content} for m in example.messages]
    return tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]


def test_loss_is_on_the_answer_and_the_end_of_its_turn(tokenizer):
    example = chat("Is it good?", "yes")
    encoded = encode(example, tokenizer, LIMIT)
    assert encoded.input_ids == template_ids(example, tokenizer)
    assert trained(encoded, tokenizer) == ["yes<|im_end|>"]
    assert encoded.labels[-2:] == [tokenizer.eos_token_id, IGNORED]


@pytest.mark.parametrize("system", [None, "Be terse"])
def test_every_answer_of_a_conversation_is_trained_and_nothing_else(tokenizer, system):
    example = chat("a", "first", "first", " second\n", "yes", "third", system=system)
    encoded = encode(example, tokenizer, LIMIT)
    assert encoded.input_ids == template_ids(example, tokenizer)
    assert trained(encoded, tokenizer) == ["first<|im_end|>", " second\n<|im_end|>", "third<|im_end|>"]


def test_the_prompt_before_the_answer_is_what_inference_sees(tokenizer):
    example = chat("Is it good?", "no", "Sure?", "yes")
    encoded = encode(example, tokenizer, LIMIT)
    turns = [{"role": m.role, "content": m.content} for m in example.messages[:3]]
    prompt = tokenizer.apply_chat_template(
        turns, tokenize=True, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert encoded.input_ids[: len(prompt)] == prompt
    assert encoded.labels[len(prompt) - 1] == IGNORED
    assert encoded.labels[len(prompt)] == encoded.input_ids[len(prompt)]


CONTENT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)


@given(contents=st.lists(CONTENT, min_size=1, max_size=3).map(lambda c: [x for y in c for x in (y, y[::-1])]))
def test_any_conversation_has_the_template_s_ids_and_one_stretch_an_answer(tokenizer, contents):
    example = chat(*contents)
    encoded = encode(example, tokenizer, LIMIT)
    assert encoded.input_ids == template_ids(example, tokenizer)
    assert len(encoded.labels) == len(encoded.input_ids)
    stretches = trained(encoded, tokenizer)
    assert len(stretches) == len(contents) // 2
    assert all(stretch.endswith("<|im_end|>") for stretch in stretches)


def test_plain_text_takes_loss_on_all_and_is_closed(tokenizer):
    encoded = encode(Example([], "x", text="yes yes"), tokenizer, LIMIT)
    assert encoded.labels == encoded.input_ids
    assert tokenizer.decode(encoded.input_ids) == "yes yes<|im_end|>"


def test_a_template_that_marks_its_answers_is_followed(make_tokenizer):
    tokenizer = make_tokenizer(WITH_GENERATION_BLOCK)
    encoded = encode(chat("a", "b", "c", "d"), tokenizer, LIMIT)
    assert trained(encoded, tokenizer) == ["b<|im_end|>", "d<|im_end|>"]


def test_a_template_that_rewrites_earlier_turns_drops_the_conversation(make_tokenizer):
    tokenizer = make_tokenizer(FORGETFUL)
    assert isinstance(encode(chat("a", "b"), tokenizer, LIMIT), Encoded)
    dropped = encode(chat("a", "b", "c", "d"), tokenizer, LIMIT)
    assert dropped == Dropped(0, "the chat template does not render it turn by turn", id="x")


def test_what_the_template_refuses_is_dropped_with_its_words(make_tokenizer):
    tokenizer = make_tokenizer(STRICT)
    dropped = encode(chat("a", "b", system="s"), tokenizer, LIMIT)
    assert dropped.reason == "the chat template refuses it: no system role"


def test_a_row_is_dropped_rather_than_cut(tokenizer):
    example = chat("a", "b")
    length = len(encode(example, tokenizer, LIMIT).input_ids)
    assert isinstance(encode(example, tokenizer, length), Encoded)
    assert encode(example, tokenizer, length - 1) == Dropped(0, f"longer than {length - 1} tokens", id="x")


def test_many_are_encoded_as_one_by_one(tokenizer):
    examples = [chat(f"q{n}", "yes" * n) for n in range(1, 300)]
    assert list(encode_all(examples, tokenizer, 300)) == [encode(e, tokenizer, 300) for e in examples]


def test_a_conversation_needs_a_chat_template(make_tokenizer):
    with pytest.raises(ConfigError, match="no chat template"):
        encode(chat("a", "b"), make_tokenizer(None), LIMIT)


def pair(*shared, chosen="yes", rejected="no"):
    """Both conversations after the messages that they share."""
    return Pair(*(replace(chat(*shared, answer), given=len(shared)) for answer in (chosen, rejected)))


@pytest.mark.parametrize("template", [TEMPLATE, WITH_GENERATION_BLOCK])
def test_of_a_pair_only_what_follows_the_prompt_is_trained(make_tokenizer, template):
    tokenizer = make_tokenizer(template)
    row = pair("a", "said before", "b")
    [encoded] = encode_pairs([row], tokenizer, LIMIT)
    assert encoded.chosen.input_ids == template_ids(row.chosen, tokenizer)
    assert trained(encoded.chosen, tokenizer) == ["yes<|im_end|>"]
    assert trained(encoded.rejected, tokenizer) == ["no<|im_end|>"]


def test_a_pair_is_dropped_when_either_side_is(tokenizer):
    rows = [pair("a"), pair("a", chosen="y" * 300), pair("a", rejected="n" * 300), pair("b")]
    found = list(encode_pairs(rows, tokenizer, 200))
    assert [isinstance(item, EncodedPair) for item in found] == [True, False, False, True]
    assert {item.reason for item in found[1:3]} == {"longer than 200 tokens"}


def test_answers_that_the_template_makes_equal_are_no_pair(make_tokenizer):
    tokenizer = make_tokenizer(TEMPLATE.replace("message['content']", "message['content'] | trim"))
    [dropped] = encode_pairs([pair("a", chosen="yes", rejected="yes ")], tokenizer, LIMIT)
    assert dropped == Dropped(0, "chosen and rejected are the same to the tokenizer", id="x")


def test_many_pairs_are_encoded_as_one_by_one(tokenizer):
    rows = [pair(f"q{n}", chosen="yes" * n) for n in range(1, 200)]
    assert list(encode_pairs(rows, tokenizer, 300)) == [
        item for row in rows for item in encode_pairs([row], tokenizer, 300)
    ]

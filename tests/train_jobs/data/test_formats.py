import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError
from train_jobs.data.formats import NEEDED_COLUMNS, Format, convert, recognise
from train_jobs.data.records import Dropped, Example, Message, Pair

ASK, SAY = Message("user", "2+2?"), Message("assistant", "4")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["id", "messages"], Format.MESSAGES),
        (["conversations", "model"], Format.SHAREGPT),
        (["instruction", "input", "output"], Format.ALPACA),
        (["instruction", "output"], Format.ALPACA),
        (["prompt", "completion"], Format.PROMPT_COMPLETION),
        (["text"], Format.TEXT),
        (["text", "messages"], Format.MESSAGES),
        (["prompt", "chosen", "rejected"], Format.PREFERENCES),
        (["chosen", "rejected", "messages", "score"], Format.PREFERENCES),
    ],
)
def test_a_format_is_recognised_by_its_columns(columns, expected):
    assert recognise(columns, "f") is expected


def test_a_wanted_format_is_taken_where_the_columns_allow_it():
    columns = ["prompt", "chosen", "rejected", "messages"]
    assert recognise(columns, "f", [Format.TEXT, Format.MESSAGES]) is Format.MESSAGES
    assert recognise(columns, "f", [Format.TEXT]) is Format.PREFERENCES


def test_unknown_columns_are_named_with_what_would_be_accepted():
    with pytest.raises(ConfigError) as caught:
        recognise(["question", "reply"], "`qa.csv`")
    assert "`qa.csv`" in caught.value.message
    assert "question, reply" in caught.value.message
    for needed in NEEDED_COLUMNS.values():
        assert " + ".join(needed) in caught.value.hint


def test_a_needed_column_that_is_missing_altogether_is_named():
    with pytest.raises(ConfigError, match=r"For alpaca the column `output` is missing"):
        recognise(["instruction", "input"], "f")


def test_a_misspelt_column_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"Did you mean `messages`\?"):
        recognise(["message"], "f")


@pytest.mark.parametrize(
    ("data_format", "row"),
    [
        (
            Format.MESSAGES,
            {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]},
        ),
        (
            Format.SHAREGPT,
            {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        ),
        (Format.ALPACA, {"instruction": "2+2?", "input": "", "output": "4"}),
        (Format.PROMPT_COMPLETION, {"prompt": "2+2?", "completion": "4"}),
    ],
)
def test_every_conversation_format_becomes_the_same_messages(data_format, row):
    example = convert(row, data_format, index=3, file="a.jsonl")
    assert example == Example([ASK, SAY], "a.jsonl:3", index=3, file="a.jsonl")


def test_an_alpaca_input_follows_the_instruction():
    row = {"instruction": "Add.", "input": "2 and 2", "output": "4"}
    example = convert(row, Format.ALPACA, index=0)
    assert example.messages[0].content == "Add.\n\n2 and 2"


def test_the_id_of_a_row_is_kept():
    assert convert({"text": "x", "id": 7}, Format.TEXT, index=0).id == "7"


def turns(*pairs):
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


PAIR = (("user", "a"), ("assistant", "b"))
IMAGE = {"type": "image_url", "image_url": {"url": "x"}, "text": None}


def part(text):
    return {"type": "text", "text": text}


def calling(key, content):
    row = turns(PAIR[0], ("assistant", content))
    row["messages"][1][key] = [{"function": {"name": "add", "arguments": "{}"}}]
    return row


def test_content_in_parts_that_are_all_text_is_that_text():
    row = turns(("system", [part("Be "), part("terse.")]), ("user", [part("a")]), ("assistant", [part("b")]))
    assert convert(row, Format.MESSAGES, index=0).messages == [
        Message("system", "Be terse."),
        Message("user", "a"),
        Message("assistant", "b"),
    ]


def test_a_system_message_that_is_empty_stays_and_so_do_calls_that_are_none():
    row = turns(("system", ""), *PAIR)
    row["messages"][2]["tool_calls"] = []
    assert [m.role for m in convert(row, Format.MESSAGES, index=0).messages] == [
        "system",
        "user",
        "assistant",
    ]


@pytest.mark.parametrize(
    ("data_format", "row", "reason"),
    [
        (Format.PROMPT_COMPLETION, {"prompt": "a", "completion": "  "}, "empty answer"),
        (Format.PROMPT_COMPLETION, {"prompt": "a", "completion": None}, "no value in `completion`"),
        (Format.PROMPT_COMPLETION, {"prompt": "a"}, "no value in `completion`"),
        (Format.PROMPT_COMPLETION, {"prompt": "", "completion": "a"}, "empty prompt"),
        (Format.ALPACA, {"instruction": "", "input": "x", "output": "y"}, "empty prompt"),
        (Format.TEXT, {"text": "\n"}, "empty text"),
        (Format.TEXT, {"text": "a\ud800"}, "text that is not valid Unicode"),
        (Format.MESSAGES, turns(("user", "\ud800"), ("assistant", "b")), "text that is not valid Unicode"),
        (Format.MESSAGES, {"messages": []}, "no messages"),
        (Format.MESSAGES, {"messages": "hi"}, "`messages` is not a list of turns"),
        (Format.MESSAGES, {"messages": [{"content": "hi"}]}, "a turn without `role`"),
        (Format.MESSAGES, turns(("user", "a"), ("assistant", "")), "empty answer"),
        (Format.MESSAGES, turns(("user", "a"), ("assistant", None)), "empty answer"),
        (Format.MESSAGES, turns(("user", "a")), "the last message is not an answer"),
        (Format.MESSAGES, turns(("oracle", "a"), ("assistant", "b")), "unknown role `oracle`"),
        (Format.SHAREGPT, {"conversations": [{"from": "human"}]}, "empty prompt"),
        (Format.MESSAGES, turns(("system", {"a": 1}), *PAIR), "a turn whose `content` is not text"),
        (Format.MESSAGES, turns(("system", [IMAGE]), *PAIR), "a turn whose `content` is not text"),
        (Format.MESSAGES, turns(("user", [part("a"), IMAGE]), PAIR[1]), "a turn whose `content` is not text"),
        (Format.MESSAGES, turns(("user", ["a"]), PAIR[1]), "a turn whose `content` is not text"),
        (Format.MESSAGES, turns(("tool", 3), *PAIR), "a turn whose `content` is not text"),
        (Format.MESSAGES, calling("tool_calls", "b"), "a turn with `tool_calls`, which cannot be trained on"),
        (
            Format.MESSAGES,
            calling("tool_calls", None),
            "a turn with `tool_calls`, which cannot be trained on",
        ),
        (
            Format.MESSAGES,
            calling("function_call", ""),
            "a turn with `function_call`, which cannot be trained on",
        ),
        (
            Format.SHAREGPT,
            {"conversations": [{"from": "human", "value": 3}]},
            "a turn whose `value` is not text",
        ),
        (Format.ALPACA, {"instruction": "a", "input": 5, "output": "b"}, "`input` is not text"),
        (Format.ALPACA, {"instruction": "a", "input": "", "output": ["b"]}, "`output` is not text"),
        (Format.PROMPT_COMPLETION, {"prompt": [{"role": "user"}], "completion": "a"}, "`prompt` is not text"),
        (Format.TEXT, {"text": 3}, "`text` is not text"),
    ],
)
def test_a_row_that_cannot_be_used_is_dropped_with_its_reason(data_format, row, reason):
    assert convert(row, data_format, index=5, file="f") == Dropped(5, reason, "f", "f:5")
    named = convert({**row, "id": "q9"}, data_format, index=5, file="f")
    assert named == Dropped(5, reason, "f", "q9")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(data_format=st.sampled_from(Format), values=st.lists(ANYTHING, min_size=2, max_size=2))
def test_any_row_is_an_example_with_an_answer_or_is_dropped(data_format, values):
    row = dict(zip(NEEDED_COLUMNS[data_format], values, strict=False))
    item = convert(row, data_format, index=0)
    if isinstance(item, Dropped):
        assert item.reason
    elif isinstance(item, Pair):
        assert item.chosen.messages[: item.chosen.given] == item.rejected.messages[: item.rejected.given]
    else:
        assert item.text or item.messages[-1].content.strip()

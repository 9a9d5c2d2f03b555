import pytest
from hypothesis import given
from hypothesis import strategies as st

from train_jobs.data.formats import Format, convert
from train_jobs.data.preferences import Preference, read_preference
from train_jobs.data.records import Dropped, Message, Pair
from train_jobs.publish import task_prompts


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def said(*pairs):
    return [Message(*pair) for pair in pairs]


ASK, GOOD, BAD = ("user", "2+2?"), ("assistant", "4"), ("assistant", "5")
SYSTEM = ("system", "Be terse")
PAIR = Preference(said(ASK, GOOD), said(ASK, BAD), 1)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
        {"prompt": turns(ASK), "chosen": turns(GOOD), "rejected": turns(BAD)},
        {"prompt": turns(ASK), "chosen": "4", "rejected": turns(BAD)},
        {"prompt": "2+2?", "chosen": turns(ASK, GOOD), "rejected": turns(ASK, BAD)},
        {"chosen": turns(ASK, GOOD), "rejected": turns(ASK, BAD)},
        {"prompt": None, "chosen": turns(ASK, GOOD), "rejected": turns(ASK, BAD)},
    ],
)
def test_every_spelling_of_a_pair_is_the_same(row):
    assert read_preference(row) == PAIR


def test_a_system_message_and_earlier_answers_are_part_of_the_prompt():
    before = (SYSTEM, ASK, GOOD, ("user", "And 3+3?"))
    row = {"chosen": turns(*before, ("assistant", "6")), "rejected": turns(*before, ("assistant", "7"))}
    expected = Preference(said(*before, ("assistant", "6")), said(*before, ("assistant", "7")), 4)
    assert read_preference(row) == expected
    assert read_preference({**row, "prompt": "2+2?"}) == expected


def test_conversations_part_where_they_first_differ():
    row = {
        "prompt": "2+2?",
        "chosen": turns(GOOD, ("user", "Thanks"), ("assistant", "Bye")),
        "rejected": turns(GOOD, ("user", "No"), ("assistant", "Yes")),
    }
    assert read_preference(row).shared == 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "chosen": "b"}, "no value in `rejected`"),
        ({"prompt": "a", "chosen": None, "rejected": "b"}, "no value in `chosen`"),
        ({"chosen": "b", "rejected": "c"}, "no value in `prompt`"),
        ({"prompt": "  ", "chosen": "b", "rejected": "c"}, "empty prompt"),
        ({"prompt": "a", "chosen": " ", "rejected": "c"}, "empty answer in `chosen`"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, "empty answer in `rejected`"),
        ({"prompt": "a", "chosen": "b", "rejected": []}, "the last message is not an answer in `rejected`"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are the same"),
        ({"prompt": "a", "chosen": 3, "rejected": "b"}, "`chosen` is not a list of turns"),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, "`prompt` is not a list of turns"),
        ({"prompt": "a\ud800", "chosen": "b", "rejected": "c"}, "text that is not valid Unicode"),
        (
            {"chosen": turns(ASK, GOOD), "rejected": turns(("user", "3+3?"), BAD)},
            "chosen and rejected answer different prompts",
        ),
        (
            {"chosen": turns(ASK, GOOD), "rejected": turns(ASK, GOOD, ASK, GOOD)},
            "one answer is the beginning of the other",
        ),
        (
            {"prompt": "3+3?", "chosen": turns(ASK, GOOD), "rejected": turns(ASK, BAD)},
            "chosen and rejected do not begin with `prompt`",
        ),
    ],
)
def test_a_row_that_is_no_pair_is_dropped_with_its_reason_and_named(row, reason):
    item = convert({"id": "q1", **row}, Format.PREFERENCES, index=2, file="f")
    assert item == Dropped(2, reason, "f", "q1")


def test_the_prompts_of_preferences_are_read_like_those_of_answers(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(f'{{"prompt": "q{n}", "chosen": "a", "rejected": "b"}}\n' for n in range(3)))
    assert task_prompts(str(path)) == ["q0", "q1", "q2"]


TEXT = st.text("ab ", max_size=3)
TURNS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXT}),
    max_size=4,
)


@given(prompt=st.none() | TEXT | TURNS, chosen=TEXT | TURNS, rejected=TEXT | TURNS)
def test_a_pair_has_one_prompt_and_two_different_answers(prompt, chosen, rejected):
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    item = convert(row, Format.PREFERENCES, index=0)
    if isinstance(item, Pair):
        sides = (item.chosen, item.rejected)
        assert sides[0].messages[: sides[0].given] == sides[1].messages[: sides[1].given] != []
        assert sides[0].messages != sides[1].messages
        for side in sides:
            assert side.messages[-1].role == "assistant"
            assert side.messages[-1].content.strip()
            assert side.given < len(side.messages)

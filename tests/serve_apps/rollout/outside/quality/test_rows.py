from __future__ import annotations

import json

import pytest

from cluster.errors import ConfigError
from serve_apps.rollout.outside.config import ScorerName
from serve_apps.rollout.outside.quality.rows import SHOWN, Turn, read_rows


def lines(*rows) -> bytes:
    return b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows)


def read(data, default=ScorerName.EXACT, *, has_judge=False):
    return read_rows(data, "`set.jsonl`", default, has_judge=has_judge)


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "2 + 2?"},
]


def test_a_prompt_is_one_message_of_the_user_and_messages_stay_as_they_are():
    first, second = read(
        lines({"prompt": "2 + 2?", "answer": "4"}, {"messages": TALK, "answers": ["4", "four"]})
    )
    assert first.messages == (Turn(role="user", content="2 + 2?"),)
    assert (first.index, first.answers, first.scorer) == (0, ("4",), ScorerName.EXACT)
    assert [turn.model_dump() for turn in second.messages] == TALK
    assert (second.index, second.answers) == (1, ("4", "four"))


def test_a_rows_scorer_wins_over_that_of_the_gate():
    rows = lines({"prompt": "a", "answer": "b"}, {"prompt": "a", "answer": "b", "scorer": "contains"})
    assert [one.scorer for one in read(rows, ScorerName.CHOICE)] == [ScorerName.CHOICE, ScorerName.CONTAINS]


@pytest.mark.parametrize("scorer", ["json_valid", "judge"])
def test_some_scorers_need_no_answer(scorer):
    [question] = read(lines({"prompt": "a", "scorer": scorer}), has_judge=True)
    assert question.answers == ()


def test_empty_lines_are_no_rows_and_line_ends_of_windows_are_fine():
    assert len(read(b'\n{"prompt": "a", "answer": "b"}\r\n\r\n  \n{"prompt": "c", "answer": "d"}\n')) == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (b"{", "it is not JSON"),
        (b'{"prompt": "\xff", "answer": "b"}', "it is not UTF-8"),
        (b"[" * 100_000, "it is nested too deeply"),
        ([], "Input should be"),
        ({"answer": "b"}, "give either `prompt` or `messages`"),
        ({"prompt": "a", "messages": TALK, "answer": "b"}, "give either `prompt` or `messages`"),
        ({"prompt": " ", "answer": "b"}, "the prompt is empty"),
        ({"prompt": 3, "answer": "b"}, "`prompt`: Input should be a valid string"),
        (b'{"prompt": "\\ud800", "answer": "b"}', "`prompt`: the text is not Unicode"),
        ({"messages": TALK[:3], "answer": "b"}, "the last message is to be the user's"),
        ({"messages": [{"role": "robot", "content": "a"}], "answer": "b"}, "`messages.0.role`"),
        ({"prompt": "a"}, "the scorer exact needs an `answer`"),
        ({"prompt": "a", "answers": []}, "the scorer exact needs an `answer`"),
        ({"prompt": "a", "answer": "b", "answers": ["c"]}, "give either `answer` or `answers`"),
        ({"prompt": "a", "answer": ""}, "an answer is empty"),
        ({"prompt": "a", "answers": ["b", " "]}, "an answer is empty"),
        ({"prompt": "a", "answer": "b", "scorer": "fuzzy"}, "`scorer`: Input should be"),
        ({"prompt": "a", "answer": "b", "scorer": "judge"}, "the scorer judge needs a `judge`"),
        ({"prompt": "a", "awnser": "b"}, "`awnser`: Extra inputs are not permitted"),
    ],
)
def test_a_row_that_cannot_be_used_is_told_with_its_line(row, said):
    good = {"prompt": "a", "answer": "b"}
    with pytest.raises(ConfigError) as caught:
        read(lines(good, b"", row, good))
    assert caught.value.message.startswith("`set.jsonl` has 1 rows that cannot be used: line 3: ")
    assert said in caught.value.message


def test_every_fault_is_counted_and_the_first_ones_are_named():
    with pytest.raises(ConfigError) as caught:
        read(lines(*[{"prompt": "a"}] * (SHOWN + 3)))
    assert "has 13 rows that cannot be used" in caught.value.message
    assert "line 10: " in caught.value.message
    assert "line 11: " not in caught.value.message
    assert caught.value.message.endswith("; and 3 more.")


@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_a_set_without_rows_is_refused(data):
    with pytest.raises(ConfigError) as caught:
        read(data)
    assert caught.value.code == "rollout.held_out_empty"

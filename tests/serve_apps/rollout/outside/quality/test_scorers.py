from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.rollout.outside.config import ScorerName
from serve_apps.rollout.outside.quality.scorers import SCORERS, choice, contains, exact, json_valid


@pytest.mark.parametrize("text", ["Paris", " Paris\n", "Lutetia"])
def test_exact_is_the_answer_and_nothing_else(text):
    assert exact(text, ["Paris", " Lutetia "])


@pytest.mark.parametrize("text", ["", "paris", "Paris.", "It is Paris", "Pa ris"])
def test_exact_takes_nothing_near(text):
    assert not exact(text, ["Paris"])


def test_exact_takes_the_same_letters_however_they_are_encoded():
    assert exact("cafe\u0301", ["caf\u00e9"])


@pytest.mark.parametrize("text", ["Paris", "It is PARIS, of course", "in new\n  york or paris"])
def test_contains_finds_an_answer_anywhere(text):
    assert contains(text, ["paris", "lyon"])


@pytest.mark.parametrize("text", ["", "Par is", "pari"])
def test_contains_finds_no_half_answer(text):
    assert not contains(text, ["Paris"])


def test_contains_reads_white_space_as_one_space():
    assert contains("New\n York", ["new york"])


@pytest.mark.parametrize(
    "text",
    [
        "B",
        " b ",
        "B.",
        "(b)",
        "[B]",
        "B)Paris",
        "B) Paris",
        "B: Paris",
        "B, because",
        "B - because",
        "B\nParis",
        "**B**",
        "**B.** Paris",
        '"B"',
        "B!",
        "\uff22",
    ],
)
def test_a_choice_may_be_dressed(text):
    assert choice(text, ["B"])


@pytest.mark.parametrize(
    "text",
    ["", "A", "AB", "Bee", "B cell", "B-side", "B.I.", "The answer is B", "A) B", "A or B", "()"],
)
def test_a_choice_is_the_first_thing_named(text):
    assert not choice(text, ["B"])


def test_choices_may_be_words_and_numbers():
    assert choice("Very  negative.", ["very negative"])
    assert choice("Neither of them", ["neither"]) is False
    assert choice("3", ["3"])
    assert choice("3.5", ["3"]) is False
    assert choice("(B) x", ["(B)"])
    assert choice("c++", ["C++"])


@pytest.mark.parametrize("text", ["{}", ' {"a": [1, null]}\n', "3", '"text"'])
def test_json_is_the_whole_text(text):
    assert json_valid(text, [])


@pytest.mark.parametrize(
    "text", ["", "{", "{} {}", "```json\n{}\n```", "NaN", '{"a": Infinity}', "[" * 10**5]
)
def test_all_else_is_no_json(text):
    assert not json_valid(text, [])


def test_every_scorer_but_the_judge_is_a_function():
    assert SCORERS.keys() | {ScorerName.JUDGE} == set(ScorerName)


@given(answer=st.text(min_size=1).filter(str.strip), around=st.text())
def test_scorers_end_on_any_text_and_take_the_answer_itself(answer, around):
    assert exact(answer, [answer])
    assert contains(answer, [answer])
    assert contains(f"{around} {answer}", [answer]) or around
    for scorer in SCORERS.values():
        assert scorer(around, [answer]) in (True, False)


def test_a_long_text_of_marks_is_scored_at_once():
    assert not choice("*" * 200_000 + "x", ["B"])

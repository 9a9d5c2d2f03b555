from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serve_apps.gateway.repetition import LENGTH, REPEATS, is_repetitive
from tests.support.markdown import CHECKOUT, pages

PROSE = "The kettle was on, and the cat had chosen the warmest chair in the house. "
UNITS = st.text(alphabet=st.characters(codec="utf-8", categories=["L", "P", "Z"]), min_size=1, max_size=200)

LOOPS = {
    "a word": "very " * 60,
    "a sentence": "I am a language model. " * 8,
    "after an answer": PROSE * 3 + "and so on, " * 20,
    "in other case and lines": "The end.\nthe END. " * 15,
    "with a begun unit at its end": "one two three " * 12 + "one tw",
    "as often as it takes, and not a blank more": (":" * 19 + "a ") * 6,
    "a letter": "a" * 200,
    "signs": "!" * 200,
    "Chinese": "\u6211\u4e0d\u77e5\u9053" * 15,
    "Russian": "\u044f \u043d\u0435 \u0437\u043d\u0430\u044e " * 12,
    "emoji": "\U0001f600" * 40,
    "blanks": '{"a": 1' + "\n" * 300,
    "a long unit": PROSE * 7,
    "most of it, with an end": PROSE + "and so on, " * 40 + "I stop here, because somebody told me so.",
    "most of it, in the middle": "Here it is: " + "tick tock " * 50 + "And that is all that there is to say.",
    "of digits and signs, without an end": "0, " * 400,
}

NURSERY = (
    "Row, row, row your boat,\nGently down the stream.\n"
    "Merrily, merrily, merrily, merrily,\nLife is but a dream.\n"
)
SEASONS = ("spring", "summer", "autumn", "winter", "rain", "snow", "wind")
ORDINARY = {
    "nothing": "",
    "a word": "Yes.",
    "laughter": "ha ha ha ha ha ha",
    "buffalo": "Buffalo buffalo Buffalo buffalo buffalo buffalo Buffalo buffalo.",
    "a song sung three times": NURSERY * 3,
    "a refrain at the end": PROSE + "Let it be, let it be, let it be, let it be.",
    "a refrain between verses": "".join(
        f"Verse {n}: {word} is here.\nAnd we sing, and we sing!\n" for n, word in enumerate(SEASONS)
    ),
    "a list": "\n".join(f"{n}. Item number {n} of the list" for n in range(1, 60)),
    "a list of one thing": "\n".join(f"- {word}: yes" for word in "abcdefghijklmnop"),
    "a table": "| a | b | c |\n| --- | --- | --- |\n" + "\n".join(f"| {n} | yes | no |" for n in range(40)),
    "a rule": PROSE + "\n" + "-" * 200,
    "a matrix": json.dumps([[0] * 10] * 10),
    "JSON": json.dumps([{"id": n, "name": f"n{n}", "active": True, "tags": []} for n in range(40)], indent=2),
    "JSON without names": json.dumps({f"k{n}": None for n in range(100)}),
    "closing tags": "<p>" + PROSE + "</p>" + "</div>" * 12,
    "closing brackets": PROSE + ")" * 300,
    "Python": Path(__file__).read_text()[:4096],
    "a number": "3." + "3" * 300,
    "dots": "Chapter 1 " + "." * 200 + " 5",
}


@pytest.mark.parametrize("text", LOOPS.values(), ids=list(LOOPS))
def test_a_loop(text):
    assert is_repetitive(text[:4096])


@pytest.mark.parametrize("text", ORDINARY.values(), ids=list(ORDINARY))
def test_no_loop(text):
    assert not is_repetitive(text[:4096])


@given(before=st.text(max_size=300), unit=UNITS, repeats=st.integers(REPEATS, 40), cut=st.integers(0, 200))
def test_whatever_ends_in_a_unit_again_and_again_is_a_loop(before, unit, repeats, cut):
    unit = " ".join(unit.casefold().split()) + " "
    assume(any(char.isalpha() for char in unit) and len(unit) * repeats > LENGTH)
    assert is_repetitive(before + " " + unit * repeats + unit[: cut % len(unit)])


@given(
    before=st.text(alphabet="abcdefgh ", max_size=100),
    unit=st.text(alphabet="klmnop", min_size=1, max_size=30),
    after=st.text(alphabet="abcdefgh ", max_size=100),
)
def test_whatever_is_mostly_a_unit_again_and_again_is_a_loop(before, unit, after):
    repeats = max(REPEATS, -(-max(LENGTH, len(before) + len(after) + 20) // len(unit)) + 1)
    assert is_repetitive(before + unit * repeats + after)


def test_one_sign_less_than_it_takes_is_none():
    unit = "abcdefghijklmnopqrstu"
    assert is_repetitive(unit * REPEATS)
    assert not is_repetitive((unit * REPEATS)[:-1])


@given(
    st.lists(
        st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=2, max_size=9), max_size=200, unique=True
    )
)
def test_words_that_are_all_different_are_no_loop(words):
    assert not is_repetitive(" ".join(words))


@given(
    st.lists(st.text(alphabet="abcdefgh", min_size=2, max_size=9), min_size=3, max_size=40, unique=True),
    st.integers(1, REPEATS - 1),
)
def test_fewer_repeats_are_no_loop(words, repeats):
    assert not is_repetitive((" ".join(words) + ". ") * repeats)


@given(st.text(max_size=600))
def test_any_text_is_read(text):
    assert is_repetitive(text) in (True, False)


def files() -> list[Path]:
    found = [*pages(), *sorted((CHECKOUT / "serve_apps").rglob("*.py"))]
    return [*found, *sorted((CHECKOUT / "docs" / "monitoring").iterdir())]


@pytest.mark.parametrize("size", [200, 1000, 4096])
def test_no_prose_table_code_or_json_of_this_project_is_a_loop(size):
    found = [
        (file.name, start)
        for file in files()
        for text in [file.read_text()]
        for start in range(0, len(text), size)
        if is_repetitive(text[start : start + size])
    ]
    assert found == []

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.judging import TextChecks
from serve_apps.gateway.text_checks import LIMIT, check, has_banned_word, in_scripts, is_invalid_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_json_is_valid_and_cut_short_it_is_not(value):
    text = json.dumps({"a": value})
    assert not is_invalid_json(text)
    assert not is_invalid_json(f"\n {text}\n")
    assert is_invalid_json(text[:-1])
    assert is_invalid_json(f"```json\n{text}\n```")
    assert is_invalid_json(f"Here it is: {text}")


@pytest.mark.parametrize("text", ["", "{'a': 1}", "[" * 100_000, "\ud800", "NaN"])
def test_what_is_no_json(text):
    assert is_invalid_json(text)


@pytest.mark.parametrize(
    ("text", "scripts", "fits"),
    [
        ("Hello, world!", ("latin",), True),
        ("\u041f\u0440\u0438\u0432\u0435\u0442", ("latin",), False),
        ("\u041f\u0440\u0438\u0432\u0435\u0442, world", ("latin", "cyrillic"), True),
        ("\u4f60\u597d", ("han",), True),
        ("\u4f60\u597d", ("latin",), False),
        ("\u30b3\u30fc\u30d2\u30fc\u3092\u98f2\u3080", ("han", "hiragana", "katakana"), True),
        ("\u30b3\u30fc\u30d2\u30fc", ("hiragana",), False),
        ("\uff21\uff22", ("latin",), True),
        (
            "The area is \u03c0r\u00b2, as Archimedes (\u1f08\u03c1) knew long ago in Syracuse.",
            ("latin",),
            True,
        ),
        ("Then it went on \u7136\u540e\u5b83\u7ee7\u7eed\u8bf4\u4e2d\u6587", ("latin",), False),
        ("123 + 4 = 127 \U0001f600", ("cyrillic",), True),
        ("", ("latin",), True),
        ("\u00b5\u00aa\u00ba", ("cyrillic",), True),
    ],
)
def test_an_answer_in_other_scripts(text, scripts, fits):
    assert in_scripts(text, scripts) is fits


@pytest.mark.parametrize(
    ("text", "banned", "found"),
    [
        ("What a darn thing.", ("darn",), True),
        ("DARN!", ("darn",), True),
        ("Stra\u00dfe", ("STRASSE",), True),
        ("darning", ("darn",), False),
        ("the darn", ("darn",), True),
        ("big  bad\nwolf", ("bad wolf",), True),
        ("big bad, wolf", ("bad wolf",), False),
        ("It costs a.b", ("a.b",), True),
        ("It costs axb", ("a.b",), False),
        ("C++ is here", ("c++",), True),
        ("", ("a",), False),
    ],
)
def test_banned_words_are_whole_words_in_any_case(text, banned, found):
    assert has_banned_word(text, banned) is found


def test_only_what_is_asked_for_is_checked():
    plain = check("Hi", TextChecks(), wants_json=False)
    assert plain == {"refusal": False, "repetition": False}
    every = check("Hi", TextChecks(banned=("hi",), scripts=("han",)), wants_json=True)
    assert every == {
        "refusal": False,
        "repetition": False,
        "invalid_json": True,
        "wrong_script": True,
        "banned_word": True,
    }


def test_of_an_answer_that_goes_on_nobody_knows_whether_it_is_json():
    text = json.dumps(list(range(5000)))
    assert "invalid_json" not in check(text[:LIMIT], TextChecks(), wants_json=True)
    assert check(text[: LIMIT - 1], TextChecks(), wants_json=True)["invalid_json"]


@given(st.text(max_size=LIMIT))
def test_any_text_is_read(text):
    found = check(text, TextChecks(banned=("a b", "("), scripts=("latin", "han")), wants_json=True)
    assert set(found.values()) <= {True, False}

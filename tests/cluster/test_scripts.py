from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.scripts import SCRIPTS, scripts_of


@pytest.mark.parametrize(
    ("letters", "script"),
    [
        ("a\u00e9\u00df\u0101\uff21", "latin"),
        ("\u0434\u0416\u0457", "cyrillic"),
        ("\u03c0\u1f08", "greek"),
        ("\u4f60\u597d\U00020000", "han"),
        ("\u3042", "hiragana"),
        ("\u30ab\uff76", "katakana"),
        ("\ud55c\uae00", "hangul"),
        ("\u0639", "arabic"),
        ("\u05d0", "hebrew"),
        ("\u0905", "devanagari"),
        ("\u0e01", "thai"),
    ],
)
def test_letters_and_their_scripts(letters, script):
    assert {scripts_of(letter) for letter in letters} == {frozenset({script})}


def test_the_long_vowel_mark_alone_is_of_two_scripts():
    found = [chr(number) for number in range(0x30000) if len(scripts_of(chr(number))) > 1]
    assert found == ["\u30fc", "\uff70"]
    assert scripts_of("\u30fc") == {"hiragana", "katakana"}


@pytest.mark.parametrize("character", [" ", "1", "!", "\u00b5", "\U0001f600", "\u0301", "\u00ba"])
def test_what_all_scripts_share(character):
    assert scripts_of(character) == frozenset()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_letters(script):
    names = (unicodedata.name(chr(number), "") for number in range(0x20000) if chr(number).isalpha())
    assert any(SCRIPTS[script] in name.replace("-", " ").split() for name in names)


@given(st.characters())
def test_any_character_is_read(character):
    assert scripts_of(character) <= set(SCRIPTS)

"""Unicode's names of the scripts in use today, and which of them a letter belongs to."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

SCRIPTS = {
    **{
        name: name.upper()
        for name in (
            *("latin", "greek", "cyrillic", "armenian", "georgian", "hebrew", "arabic", "syriac", "thaana"),
            *("devanagari", "bengali", "gurmukhi", "gujarati", "oriya", "tamil", "telugu", "kannada"),
            *("malayalam", "sinhala", "thai", "lao", "tibetan", "myanmar", "khmer", "mongolian"),
            *("ethiopic", "cherokee", "hangul", "hiragana", "katakana", "bopomofo", "tifinagh", "nko"),
        )
    },
    "han": "CJK",
    "yi": "YI",
}
"""By the name of the script, the word for it in the names of its characters."""

_NAMES = {word: script for script, word in SCRIPTS.items()}


@lru_cache(maxsize=16_384)
def scripts_of(character: str) -> frozenset[str]:
    """The scripts of a letter; empty for what is no letter, and for letters that all scripts share.

    Python has no table of scripts, but the names of characters begin with them. The long vowel mark has
    both hiragana and katakana in its first word.
    """
    if not character.isalpha():
        return frozenset()
    for word in unicodedata.name(character, "").split():
        if found := _NAMES.keys() & word.split("-"):
            return frozenset(_NAMES[name] for name in found)
    return frozenset()

"""What can be wrong with the text of an answer, told from the text alone: pure functions."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache

import msgspec

from cluster.judging import TextChecks
from cluster.scripts import scripts_of
from serve_apps.gateway.refusals import is_refusal
from serve_apps.gateway.repetition import is_repetitive

LIMIT = 4096
"""Characters of an answer that are looked at."""

_FOREIGN = 0.1
"""The share of letters of other scripts that an answer may have: names and quotations."""


def check(text: str, checks: TextChecks, *, wants_json: bool) -> dict[str, bool]:
    """What was found in the first `LIMIT` characters of an answer; checks not asked for are missing."""
    found = {"refusal": is_refusal(text), "repetition": is_repetitive(text)}
    # Of one that goes on, nobody knows here how it ends.
    if wants_json and len(text) < LIMIT:
        found["invalid_json"] = is_invalid_json(text)
    if checks.scripts:
        found["wrong_script"] = not in_scripts(text, checks.scripts)
    if checks.banned:
        found["banned_word"] = has_banned_word(text, checks.banned)
    return found


def is_invalid_json(text: str) -> bool:
    """Whether it is not JSON and nothing else: a parser trips over the fence of a code block too."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return True
    return False


def in_scripts(text: str, scripts: tuple[str, ...]) -> bool:
    """Whether at least nine letters in ten belong to one of the scripts, by `cluster.scripts`."""
    allowed = frozenset(scripts)
    letters = [(found, times) for one, times in Counter(text).items() if (found := scripts_of(one))]
    foreign = sum(times for found, times in letters if not found & allowed)
    return foreign <= sum(times for _, times in letters) * _FOREIGN


def has_banned_word(text: str, banned: tuple[str, ...]) -> bool:
    """Whether one of the words or phrases is in it, as whole words, in whatever case."""
    return _any_of(banned).search(text.casefold()) is not None


@lru_cache(maxsize=64)
def _any_of(banned: tuple[str, ...]) -> re.Pattern[str]:
    phrases = (r"\s+".join(map(re.escape, phrase.casefold().split())) for phrase in banned)
    return re.compile(rf"(?<!\w)(?:{'|'.join(phrases)})(?!\w)")

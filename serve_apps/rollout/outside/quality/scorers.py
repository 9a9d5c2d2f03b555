"""Scores of one answer, 0 or 1: pure functions of the text and of the answers that are right."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from serve_apps.rollout.outside.config import ScorerName

_Right = Callable[[str, Sequence[str]], bool]

_BEFORE = r"[\W_]*"
_QUOTES = r"""[*_`"']*"""
# What follows a choice that was named: nothing, the end of the line, a bracket, or a mark and a space.
_AFTER = rf"{_QUOTES}(?:\s*(?:$|\n|[)\]]|[.:,;!]{_QUOTES}(?=\s|$))|\s+-(?=\s))"
_BRACKETS = "()[].: "


def exact(text: str, answers: Sequence[str]) -> bool:
    """The answer and nothing else; white space around it does not count."""
    return _canonical(text) in map(_canonical, answers)


def contains(text: str, answers: Sequence[str]) -> bool:
    """One of the answers is somewhere in the text, in any case and with any white space."""
    flat = _flat(text)
    return any(_flat(answer) in flat for answer in answers)


def choice(text: str, answers: Sequence[str]) -> bool:
    """The text begins with the answer and then ends, or goes on after a mark: `B`, `(b)`, `B) Paris`, `Yes.`

    A word that only begins with it is another one, and so is `A dog` for the choice A.
    """
    told = unicodedata.normalize("NFKC", text).strip().casefold()
    return any(re.match(f"{_BEFORE}{_words(answer)}{_AFTER}", told) for answer in answers)


def json_valid(text: str, _answers: Sequence[str]) -> bool:
    """The whole text is one JSON value, by RFC 8259: no NaN, nothing around it."""
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


SCORERS: Mapping[ScorerName, _Right] = {
    ScorerName.EXACT: exact,
    ScorerName.CONTAINS: contains,
    ScorerName.CHOICE: choice,
    ScorerName.JSON_VALID: json_valid,
}
"""All but the judge, which compares two answers."""


def _canonical(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _flat(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _words(answer: str) -> str:
    flat = _flat(answer)
    return r"\s+".join(map(re.escape, (flat.strip(_BRACKETS) or flat).split()))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")

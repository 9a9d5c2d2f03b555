"""What gateways count of a candidate and its baseline, of whose requests: a part of the traffic policy."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from typing import Self

from pydantic import Field, PositiveFloat, field_validator, model_validator

from cluster.config import StrictModel
from cluster.errors import did_you_mean
from cluster.scripts import SCRIPTS

THIN_BELOW = 10.0
"""Percent of the traffic below which a candidate's own is thin."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_SECRET_HEADERS = ("authorization", "cookie", "proxy-authorization")


class Match(StrictModel):
    """Who may be chosen for the candidate: by `header` or by `key_prefix`, not both.

    `header`: names with their exact values, all of which a request must carry. `key_prefix`: how the key
    begins that the split goes by; a request without a key has no prefix.
    """

    header: dict[str, str] | None = None
    key_prefix: str | None = Field(default=None, min_length=1)

    @field_validator("header")
    @classmethod
    def _names_are_lower_case(cls, given: dict[str, str] | None) -> dict[str, str] | None:
        if given is None:
            return None
        header = {name.lower(): value.strip() for name, value in given.items()}
        for name in header:
            if not _HEADER_NAME(name):
                raise ValueError(f"`{name}` is not the name of a header")
            if name in _SECRET_HEADERS:
                raise ValueError(f"`{name}` holds secrets, and policies are stored; use `key_prefix`")
        return header

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if bool(self.header) == (self.key_prefix is not None):
            raise ValueError("give either `header`, a name with its value, or `key_prefix`")
        return self


class ShadowWhen(StrEnum):
    """When requests are copied to the candidate."""

    ALWAYS = "always"
    THIN = "thin"


class Shadow(StrictModel):
    """Copies of stable's requests to the candidate; `sample` is the share of them, above 0 and at most 1.

    `thin`: only while the candidate's weight is below 10%.
    """

    sample: float = Field(gt=0.0, le=1.0)
    when: ShadowWhen = ShadowWhen.ALWAYS

    def is_on(self, weight: float) -> bool:
        """Whether it is, with the candidate at `weight` percent."""
        return self.when is ShadowWhen.ALWAYS or weight < THIN_BELOW


class TextChecks(StrictModel):
    """What is looked for in answers: `banned` words and phrases, and letters of other scripts than `scripts`.

    An empty list is not looked for. `per_second`: texts of each version that one gateway looks at.
    """

    banned: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    per_second: PositiveFloat = 20.0

    @field_validator("banned")
    @classmethod
    def _words_are_not_empty(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if not all(word.strip() for word in given):
            raise ValueError("an empty text is in every answer")
        return given

    @field_validator("scripts")
    @classmethod
    def _scripts_are_known(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(name.lower() for name in given)
        for name in names:
            if name not in SCRIPTS:
                raise ValueError(f"`{name}` is not a script.{did_you_mean(name, SCRIPTS)}")
        return names


class Fresh(StrictModel):
    """The candidate is compared with replicas of stable that are as new, and get as much traffic.

    Fresh are those that started after `since`, UTC without a zone, beyond the `others` that stable had then.
    """

    since: datetime
    others: int = Field(ge=1)


class Judging(StrictModel):
    """What the gateways do for a judged rollout.

    An empty `match` lets everyone be chosen; otherwise whoever fits one of them, and the split applies
    within. Whoever is not matched gets stable and is not counted.
    """

    rollout: int
    match: tuple[Match, ...] = ()
    shadow: Shadow | None = None
    texts: TextChecks = TextChecks()
    fresh: Fresh | None = None

"""What the YAML's `args` say about the access log."""

from __future__ import annotations

import re
from enum import StrEnum

from pydantic import Field, PositiveFloat, field_validator

from cluster.config import StrictModel

# Bounded, because a pattern that runs long holds up the whole gateway.
_E_MAIL = r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"
_BEARER = r"(?i:bearer)\s{1,8}[\w.~+/=-]{8,}"
_API_KEY = r"\b(?:sk|pk|rk|hf|gh[opsu]|xox[abps])[-_][\w-]{16,}"
_AWS_KEY = r"\bA(?:KIA|SIA)[0-9A-Z]{16}\b"
_JSON_WEB_TOKEN = r"\beyJ[\w-]{8,}(?:\.[\w-]+){0,2}"


class Prompts(StrEnum):
    """Of which requests the prompt and the answer are kept."""

    NONE = "none"
    SAMPLED = "sampled"
    ALL = "all"


class AccessLogConfig(StrictModel):
    """How the access log is written, and whether it holds prompts and answers.

    A row waits `flush_s` at most before it is on the local disk. The spool there becomes Parquet
    after `rotate_s` or `rotate_rows`, whichever is first; days older than `keep_days` are removed.
    """

    enabled: bool = True
    prompts: Prompts = Prompts.NONE
    sample_rate: float = Field(default=0.01, ge=0.0, le=1.0)
    max_text_bytes: int = Field(default=8192, ge=1, le=65536)
    redact: tuple[str, ...] = (_E_MAIL, _BEARER, _API_KEY, _AWS_KEY, _JSON_WEB_TOKEN)
    flush_s: PositiveFloat = 0.5
    rotate_s: PositiveFloat = 300.0
    rotate_rows: int = Field(default=20_000, ge=1)
    keep_days: int = Field(default=30, ge=1)

    @field_validator("redact")
    @classmethod
    def _are_patterns(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in given:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"`{pattern}` is not a regular expression: {error}") from None
        return given

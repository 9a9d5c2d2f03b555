"""API keys: what a key may do, how its secret is made and recognised."""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, Field

from cluster.config import StrictModel
from cluster.errors import UsageError
from cluster.refs import AliasRef, parse_ref

MARK = "sk-linnet-"
"""What every secret begins with, so that scanners for leaked secrets can tell it."""

MAX_LIMIT = 2**31 - 1
"""The largest number that the database's columns hold."""

_SECRET_BYTES = 32
_PREFIX_CHARS = 8
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LIFETIME = re.compile(r"([1-9][0-9]{0,5})([mhdw])").fullmatch


def _is_model(name: str) -> str:
    if "@" in name or not isinstance(parse_ref(name), AliasRef):
        raise ValueError(f"`{name}` names a version; give the model's name alone")
    return name


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
ModelName = Annotated[str, AfterValidator(_is_model)]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT)]


class Limits(StrictModel):
    """How much a key may ask for; None is no limit."""

    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    max_concurrent: Limit | None = None


class Grant(StrictModel):
    """What a key is made for. No `models` are all models; `expires_at` is in UTC, without a zone."""

    name: Name
    models: tuple[ModelName, ...] = ()
    admin: bool = False
    limits: Limits = Limits()
    expires_at: datetime | None = None


class ApiKey(StrictModel):
    """A stored key that was not revoked; `digest` stands for the secret, which is not stored."""

    id: int
    digest: bytes
    grant: Grant


def new_secret() -> str:
    """A new key's secret: 256 random bits."""
    return MARK + secrets.token_hex(_SECRET_BYTES)


def digest(secret: bytes) -> bytes:
    """What is stored of a secret.

    A plain hash, because there is nothing to guess: slow password hashes defend what people
    choose, not 256 random bits.
    """
    return hashlib.sha256(secret).digest()


def prefix(secret: str) -> str:
    """The first characters after the mark, by which people tell keys apart."""
    return secret.removeprefix(MARK)[:_PREFIX_CHARS]


def expiry(lifetime: str, now: datetime) -> datetime:
    """When a key ends that lives for `90m`, `12h`, `30d` or `8w` from `now` on."""
    found = _LIFETIME(lifetime)
    try:
        if found:
            return now + timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError:
        pass
    raise UsageError(
        f"`{lifetime}` is not a lifetime.",
        code="key.lifetime",
        hint="Write a number and a unit: 90m, 12h, 30d or 8w.",
    )

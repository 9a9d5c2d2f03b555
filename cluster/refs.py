"""Names of versions: `model:version`, `model@alias`, and which characters they may hold."""

from __future__ import annotations

import re

from cluster.config import StrictModel
from cluster.errors import UsageError

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_REF = re.compile(rf"(?P<model>{_NAME})(?:(?P<mark>[:@])(?P<label>{_NAME}))?")

STABLE = "stable"
CANDIDATE = "candidate"
PREVIOUS = "previous"


class VersionRef(StrictModel):
    """An exact version; prints as `model:version`."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model}:{self.version}"


class AliasRef(StrictModel):
    """A movable name; prints as `model@alias`."""

    model: str
    alias: str

    def __str__(self) -> str:
        return f"{self.model}@{self.alias}"


def parse_ref(text: str) -> VersionRef | AliasRef:
    """Parse `model:version` or `model@alias`; a bare `model` means `model@stable`.

    Raises UsageError for anything else.
    """
    match = _REF.fullmatch(text)
    if not match:
        raise UsageError(
            f"`{text}` does not name a version.",
            code="ref.invalid",
            hint="Write model:version (smollm2:v1) or model@alias (smollm2@stable).",
        )
    model, mark, label = match["model"], match["mark"], match["label"]
    if mark == ":":
        return VersionRef(model=model, version=label)
    return AliasRef(model=model, alias=label or STABLE)


def parse_version_ref(text: str) -> VersionRef:
    """Parse an exact `model:version`; raises UsageError for an alias or a bare model."""
    ref = parse_ref(text)
    if isinstance(ref, VersionRef):
        return ref
    raise UsageError(
        f"`{text}` does not name an exact version.",
        code="ref.not_exact",
        hint=f"Write {ref.model}:VERSION; `linnet models show {ref.model}` lists them.",
    )

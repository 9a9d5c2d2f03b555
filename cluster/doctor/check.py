"""The result of one check."""

from __future__ import annotations

from enum import StrEnum

from cluster.config import StrictModel

GIB = 2**30


class Status(StrEnum):
    """`warn` works, but less well; `fail` does not work."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


class Check(StrictModel):
    """What was looked at, what was found, and how to mend it (empty where nothing is wrong)."""

    name: str
    status: Status
    found: str
    mend: str = ""


def graded(name: str, found: str, *, fails: str = "", warns: str = "") -> Check:
    """Fail with the mend `fails` if there is one, else warn with `warns`, else pass."""
    if fails:
        return Check(name=name, status=Status.FAIL, found=found, mend=fails)
    if warns:
        return Check(name=name, status=Status.WARN, found=found, mend=warns)
    return Check(name=name, status=Status.PASS, found=found)

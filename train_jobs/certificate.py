"""The resume certificate: what is done again after a restore must come out as it did before."""

from __future__ import annotations

from enum import StrEnum
from itertools import zip_longest

from cluster.config import StrictModel, validate
from train_jobs.ledger import StepEntry
from train_jobs.run_files import RunFiles, read_lines

_SCALARS = ("draws", "learning_rate", "loss", "grad_norm", "fingerprint")


class Verdict(StrEnum):
    """Whether a restore was proven; `nothing`: no later step had been done before."""

    EQUAL = "equal"
    UNEQUAL = "unequal"
    NOTHING = "nothing"


class Certificate(StrictModel):
    """The comparison after one restore to `restored_step`; `difference` is the first one found."""

    attempt: int
    restored_step: int
    replayed_steps: list[int]
    verdict: Verdict
    difference: str = ""
    note: str = ""


def compare(recorded: StepEntry, replayed: StepEntry) -> str | None:
    """The first difference between two records of one step, both values in full; None when there is none.

    Sample ids, then draws, learning rate, loss and gradient norm, which follow from the weights before the
    step, and the fingerprint of those after it, which follows from the optimizer's state too. Floats are
    equal when they print alike in full: a NaN equals a NaN, and 0.0 is not -0.0.
    """
    samples = _compare_samples(recorded, replayed)
    if samples is not None:
        return samples
    for name in _SCALARS:
        before, after = repr(getattr(recorded, name)), repr(getattr(replayed, name))
        if before != after:
            return f"step {recorded.step}: {name} was {before}, is {after}"
    return None


def append_certificate(files: RunFiles, certificate: Certificate) -> None:
    """Add a line to certificates.jsonl."""
    files.storage.append_line(files.certificates, certificate.model_dump_json().encode())


def read_certificates(files: RunFiles) -> list[Certificate]:
    """All whole lines of certificates.jsonl, in order. Raises ConfigError for one that does not fit."""
    path = files.certificates
    return [validate(line, Certificate, source=path) for line in read_lines(files.storage, path)]


def _compare_samples(recorded: StepEntry, replayed: StepEntry) -> str | None:
    for place, (before, after) in enumerate(zip_longest(recorded.samples, replayed.samples)):
        if before != after:
            return f"step {recorded.step}: sample {place} was {before!r}, is {after!r}"
    return None

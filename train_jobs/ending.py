"""At which step a run ended, and why: a file of its directory, for every machine that sees the storage."""

from __future__ import annotations

from enum import StrEnum

from pydantic import ValidationError

from cluster.config import StrictModel
from cluster.errors import NotFoundError
from train_jobs.run_files import RunFiles
from train_jobs.spec import TrainSpec


class Why(StrEnum):
    """What the last step was: the last of the spec, or that after which nothing got better."""

    MAX_STEPS = "max_steps"
    EARLY_STOPPING = "early_stopping"


class Ending(StrictModel):
    """The end of a run that trained all that it had to."""

    step: int
    why: Why


def at_step(step: int, spec: TrainSpec) -> Ending:
    """The ending of a run that trained this spec up to `step`."""
    return Ending(step=step, why=Why.EARLY_STOPPING if step < spec.max_steps else Why.MAX_STEPS)


def read(files: RunFiles) -> Ending | None:
    """How the run ended; None for one that has not, and where the file does not read."""
    try:
        return Ending.model_validate_json(files.storage.read_bytes(files.end))
    except (NotFoundError, ValidationError):
        return None


def write(files: RunFiles, ending: Ending) -> None:
    """Say how the run ended."""
    files.storage.write_atomic(files.end, (ending.model_dump_json() + "\n").encode())


def forget(files: RunFiles) -> None:
    """The run trains again, since its last checkpoint was lost."""
    files.storage.delete_file(files.end)

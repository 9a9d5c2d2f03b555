"""Names inside a run directory, and its two journals: one line a step, one line an attempt."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from cluster.config import StrictModel
from cluster.errors import NotFoundError
from cluster.storage import Storage


class StepRecord(StrictModel):
    """One step as rank 0 saw it end. `at` in unix seconds, `tokens` counts the real ones of all ranks.

    `applied` is False when the loss was bad and the weights were left as they were. `metrics` are those of
    the method besides the loss, `eval` those of an evaluation after the step.
    """

    # A bad step's loss may be NaN or infinite, which plain JSON would turn into null.
    model_config = ConfigDict(ser_json_inf_nan="constants")

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    tokens_per_s: float
    step_s: float
    attempt: int
    at: float
    applied: bool = True
    metrics: dict[str, float] = Field(default_factory=dict)
    eval: dict[str, float] = Field(default_factory=dict)


class WorkerRecord(StrictModel):
    """Where one rank of an attempt lives."""

    rank: int
    pid: int
    node_ip: str


class AttemptRecord(StrictModel):
    """The start of one attempt.

    `launch` tells which command made it, `source` whether it took its state from a checkpoint or from a
    peer that had it, `skipped` what could not be resumed from and why.
    """

    attempt: int
    at: float
    launch: str
    resumed_from_step: int
    source: str = "checkpoint"
    skipped: list[str]
    workers: list[WorkerRecord]


class RunFiles:
    """Paths of one run below a storage root."""

    def __init__(self, storage: Storage, run: str) -> None:
        self.storage = storage
        self.run = run
        self.directory = f"runs/{run}"
        self.spec = f"{self.directory}/spec.yaml"
        self.inputs = f"{self.directory}/inputs.json"
        self.end = f"{self.directory}/end.json"
        self.metrics = f"{self.directory}/metrics.jsonl"
        self.attempts = f"{self.directory}/attempts.jsonl"
        self.logs = f"{self.directory}/logs"
        self.checkpoints = f"{self.directory}/checkpoints"
        self.witness = f"{self.directory}/witness.jsonl"
        self.receipts = f"{self.directory}/receipts.jsonl"
        self.certificates = f"{self.directory}/certificates.jsonl"
        self.ledger = f"{self.directory}/ledger"
        self.plot = f"{self.directory}/loss.png"

    def add_step(self, record: StepRecord) -> None:
        """Append to metrics.jsonl."""
        self.storage.append_line(self.metrics, record.model_dump_json().encode())

    def add_attempt(self, record: AttemptRecord) -> None:
        """Append to attempts.jsonl."""
        self.storage.append_line(self.attempts, record.model_dump_json().encode())

    def read_steps(self) -> list[StepRecord]:
        """All whole lines of metrics.jsonl, in order of writing."""
        return [StepRecord.model_validate(line) for line in read_lines(self.storage, self.metrics)]

    def read_attempts(self) -> list[AttemptRecord]:
        """All whole lines of attempts.jsonl, as `known_attempts` has them."""
        return known_attempts(read_lines(self.storage, self.attempts))


def known_attempts(lines: Iterable[dict[str, Any]]) -> list[AttemptRecord]:
    """The attempts that these lines tell of, but for one that a newer release wrote."""
    found = []
    for line in lines:
        try:
            found.append(AttemptRecord.model_validate(line))
        except ValidationError:
            continue
    return found


class Tail:
    """What a journal gains: each look reads only what was written since the one before."""

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage, self._path, self._offset = storage, path, 0

    def read(self) -> list[dict[str, Any]]:
        """The new lines, as `read_lines` would give them; one without its end is left for the next look."""
        try:
            data = self._storage.read_from(self._path, self._offset)
        except NotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return _objects(whole)


def read_lines(storage: Storage, path: str) -> list[dict[str, Any]]:
    """Every line that is a JSON object; a torn one is passed over, a missing file has none."""
    return _objects(_whole(storage, path))


def _objects(data: bytes) -> list[dict[str, Any]]:
    found = []
    for line in data.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _whole(storage: Storage, path: str) -> bytes:
    try:
        return storage.read_bytes(path)
    except NotFoundError:
        return b""

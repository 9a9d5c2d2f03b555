"""The sample ledger: which samples were trained in which committed step.

The steps since the last checkpoint are one segment, a Parquet file that is never changed and names the
segment before it by its sha256. The checkpoint's manifest names the newest segment, so that a step is
committed when a committed checkpoint's chain reaches it; a segment that none reaches is an orphan of an
attempt that died. Going on needs the newest segment's name only, never the chain.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ConfigDict, ValidationError

from cluster.config import StrictModel
from cluster.errors import ConflictError, IntegrityError, NotFoundError
from cluster.manifest import LedgerHead
from train_jobs import checkpoint
from train_jobs.run_files import RunFiles
from train_jobs.spec import TrainSpec

SUFFIX = ".parquet"
_NAME = re.compile(r"(?P<first>\d+)-(?P<last>\d+)-(?P<digest>[0-9a-f]{8})\.parquet")
_ABOUT = b"linnet.ledger"
_SAMPLES = "samples"
_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        (_SAMPLES, pa.list_(pa.int64())),
        ("loss", pa.float64()),
        ("grad_norm", pa.float64()),
        ("learning_rate", pa.float64()),
        ("weight", pa.int64()),
        ("tokens", pa.int64()),
        ("draws", pa.string()),
        ("fingerprint", pa.string()),
        ("attempt", pa.int64()),
        ("skipped", pa.bool_()),
    ]
)


class StepEntry(StrictModel):
    """What one step trained and came to.

    `samples` are the dataset indices in batch order, `draws` the digest of the seeds of all random draws,
    `fingerprint` one of the weights after the step, `weight` what the loss is a mean over; `skipped` tells
    that the batch was bad and passed over on purpose.
    """

    # A bad step's loss may be NaN or infinite, which plain JSON would turn into null.
    model_config = ConfigDict(ser_json_inf_nan="constants")

    step: int
    samples: list[int]
    loss: float
    grad_norm: float
    learning_rate: float
    weight: int
    tokens: int
    draws: str
    fingerprint: str
    attempt: int
    skipped: bool = False


class SegmentMeta(StrictModel):
    """What a segment says of itself: whose it is, what its order follows from, what came before."""

    run: str
    seed: int
    batch_size: int
    dataset_size: int
    previous: LedgerHead | None


@dataclass(frozen=True)
class Segment:
    """A segment whose bytes are those that were written, one row a step from `head.first_step` on."""

    head: LedgerHead
    meta: SegmentMeta
    table: pa.Table

    @property
    def skipped(self) -> NDArray[np.bool_]:
        """Which steps were passed over on purpose, shape (steps,)."""
        return self.table["skipped"].to_numpy()

    @property
    def batches(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All sample indices in order, shape (samples,), and where each step's end, shape (steps,)."""
        column = self.table[_SAMPLES].combine_chunks()
        offsets = column.offsets.to_numpy()
        return column.flatten().to_numpy(), (offsets[1:] - offsets[0]).astype(np.int64)

    def entries(self) -> list[StepEntry]:
        """The steps as they were written, every float in all its bits."""
        return [StepEntry.model_validate(row) for row in self.table.to_pylist()]


def write_segment(
    files: RunFiles,
    entries: Sequence[StepEntry],
    previous: LedgerHead | None,
    spec: TrainSpec,
    *,
    dataset_size: int,
) -> LedgerHead:
    """Write the steps after `previous` and return the new end of the chain; without steps, `previous`.

    Writing the same again is fine. Raises ConflictError `ledger.gap` when the steps do not follow on
    `previous` one by one, IntegrityError when other bytes are stored under the segment's name.
    """
    _require_consecutive(entries, previous)
    if previous is not None and not entries:
        return previous
    meta = SegmentMeta(
        run=files.run,
        seed=spec.seed,
        batch_size=spec.global_batch_size,
        dataset_size=dataset_size,
        previous=previous,
    )
    data = _encode(entries, meta)
    digest = hashlib.sha256(data).hexdigest()
    first, last = entries[0].step, entries[-1].step
    head = LedgerHead(
        file=f"{first}-{last}-{digest[:8]}{SUFFIX}",
        sha256=digest,
        first_step=first,
        last_step=last,
        samples_total=sum(len(entry.samples) for entry in entries)
        + (previous.samples_total if previous else 0),
    )
    path = _path(files, head)
    if not files.storage.exists(path):
        files.storage.write_atomic(path, data)
    elif files.storage.sha256(path) != digest:
        raise _damaged(path, "other bytes are stored under its name")
    return head


def read_segment(files: RunFiles, head: LedgerHead) -> Segment:
    """Read one segment. Raises NotFoundError when it is missing, IntegrityError when its bytes differ."""
    path = _path(files, head)
    data = files.storage.read_bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if digest != head.sha256:
        raise _damaged(path, f"its sha256 is {digest[:12]}…, the chain says {head.sha256[:12]}…")
    try:
        table = pq.read_table(pa.BufferReader(data), use_threads=False)
        meta = SegmentMeta.model_validate_json((table.schema.metadata or {})[_ABOUT])
    except (pa.ArrowException, KeyError, ValidationError) as error:
        raise _damaged(path, str(error).splitlines()[0]) from None
    steps = np.arange(head.first_step, head.last_step + 1)
    if not table.schema.equals(_SCHEMA) or not np.array_equal(table["step"].to_numpy(), steps):
        raise _damaged(path, f"it does not hold the steps {head.first_step} to {head.last_step}")
    return Segment(head, meta, table)


def chain(files: RunFiles, head: LedgerHead | None) -> Iterator[Segment]:
    """The segments from `head` back to the first, each verified; raises as `read_segment` does."""
    while head is not None:
        segment = read_segment(files, head)
        yield segment
        head = segment.meta.previous


def head_of(files: RunFiles, first: int, last: int) -> LedgerHead | None:
    """The end of the newest chain that ends at one of the steps `first` to `last`; None before step 1.

    Checkpoints of later steps, which may lie there from before a damaged one was passed over, do not count.
    Raises IntegrityError `ledger.lost` where no such chain is left.
    """
    for step in reversed(checkpoint.committed_steps(files)):
        try:
            head = checkpoint.manifest_of(files, step).ledger
        except (NotFoundError, IntegrityError):
            continue
        if head is not None and first <= head.last_step <= last:
            return head
    if first <= 0:
        return None
    found = _head_by_name(files, first)
    if found is None:
        raise IntegrityError(
            f"No record is left of the steps up to {first} of the run `{files.run}`.",
            code="ledger.lost",
            hint=f"`linnet train audit {files.run}` says what is left; the same command resumes from there.",
            retryable=True,
        )
    return found


def _head_by_name(files: RunFiles, last: int) -> LedgerHead | None:
    """The segment that ends at `last`, whose checkpoint is gone; its name has a part of its hash."""
    for name in segment_files(files):
        match = _NAME.fullmatch(name)
        if match is None or int(match["last"]) != last:
            continue
        data = files.storage.read_bytes(f"{files.ledger}/{name}")
        digest = hashlib.sha256(data).hexdigest()
        if digest[:8] != match["digest"]:
            continue
        meta = SegmentMeta.model_validate_json(pq.read_schema(pa.BufferReader(data)).metadata[_ABOUT])
        before = meta.previous.samples_total if meta.previous else 0
        count = (last - int(match["first"]) + 1) * meta.batch_size
        return LedgerHead(
            file=name,
            sha256=digest,
            first_step=int(match["first"]),
            last_step=last,
            samples_total=before + count,
        )
    return None


def segment_files(files: RunFiles) -> list[str]:
    """Names of all segments in the run's ledger directory, orphans too."""
    return [name for name in files.storage.list_files(files.ledger) if _is_segment(name)]


def _is_segment(name: str) -> bool:
    return name.endswith(SUFFIX) and not name.startswith(".")


def _require_consecutive(entries: Sequence[StepEntry], previous: LedgerHead | None) -> None:
    expected = previous.last_step + 1 if previous else 1
    if not entries and previous is None:
        raise ConflictError("The ledger of a run begins with step 1; there are no steps.", code="ledger.gap")
    for entry in entries:
        if entry.step != expected:
            raise ConflictError(
                f"The ledger goes on with step {expected}; step {entry.step} was given.", code="ledger.gap"
            )
        expected += 1


def _encode(entries: Sequence[StepEntry], meta: SegmentMeta) -> bytes:
    columns = [pa.array([getattr(entry, name) for entry in entries], kind) for name, kind in _columns()]
    schema = _SCHEMA.with_metadata({_ABOUT: meta.model_dump_json().encode()})
    sink = pa.BufferOutputStream()
    # Shuffled indices repeat nothing, so that they are packed into as few bits as the largest needs.
    packed = {f"{_SAMPLES}.list.element": "DELTA_BINARY_PACKED"}
    table = pa.Table.from_arrays(columns, schema=schema)
    pq.write_table(table, sink, use_dictionary=False, compression="none", column_encoding=packed)
    return sink.getvalue().to_pybytes()


def _columns() -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in _SCHEMA]


def _path(files: RunFiles, head: LedgerHead) -> str:
    return f"{files.ledger}/{head.file}"


def _damaged(path: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"The ledger segment `{path}` is damaged: {why}.",
        code="ledger.damaged",
        hint="`linnet train audit RUN` tells which steps it leaves unproven.",
    )

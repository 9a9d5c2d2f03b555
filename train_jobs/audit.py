"""The audit: from the newest good checkpoint backwards, was every sample trained in its step, once?

The order that the seed prescribes is computed again and held against the ledger, one segment at a time,
so that a run of any length is audited in the memory of one segment.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

import numpy as np

from cluster.config import Settings, StrictModel
from cluster.errors import IntegrityError, NotFoundError
from cluster.manifest import LedgerHead
from cluster.storage import Storage
from train_jobs import certificate, checkpoint, ending, ledger
from train_jobs.certificate import Verdict
from train_jobs.ledger import Segment
from train_jobs.run_files import RunFiles
from train_jobs.sampling import positions, step_samples
from train_jobs.spec import TrainSpec
from train_jobs.spec_files import parse_stored_spec

_MOST_FINDINGS = 100


class Kind(StrEnum):
    """What can be wrong with a committed step; `unproven`: no sound record of it is left."""

    LOST = "lost"
    REPEATED = "repeated"
    ORDER = "order"
    UNPROVEN = "unproven"


class Finding(StrictModel):
    """One thing that is wrong, from `step` on; `samples` are dataset indices, where they are known."""

    step: int
    kind: Kind
    detail: str
    samples: tuple[int, ...] = ()


class Audit(StrictModel):
    """What the ledger of a run proves.

    `steps` and `samples` count what is proven to be trained, `skipped` the samples of batches that were
    passed over on purpose; `lost`, `repeated` and `unproven` count samples. Of the problems the newest
    are listed and `problems_left_out` counts the rest. `notes` tell of checkpoints that were passed over.
    """

    run: str
    committed_step: int
    steps: int
    samples: int
    lost: int
    repeated: int
    unproven: int
    skipped: int
    problems: list[Finding]
    problems_left_out: int
    attempts: int
    certificates: dict[Verdict, int]
    segments: int
    orphan_segments: list[str]
    notes: list[str]

    @property
    def is_proven(self) -> bool:
        """Whether every committed step trained exactly what the seed prescribes, in its order."""
        return not self.problems


def audit_run(run: str, settings: Settings) -> Audit:
    """Audit a run by name. Raises NotFoundError for one that never began."""
    files = RunFiles(Storage(settings.root), run)
    if not files.storage.exists(files.spec):
        raise NotFoundError(
            f"There is no run `{run}` below {settings.root}.",
            code="train.unknown_run",
            hint="`linnet train list` prints the runs.",
        )
    spec = parse_stored_spec(files.storage.read_bytes(files.spec).decode(), files.spec)
    end = ending.read(files)
    return audit(files, spec, finished_at=end.step if end else 0)


def audit(files: RunFiles, spec: TrainSpec, *, finished_at: int = 0) -> Audit:
    """Hold the ledger of the newest good checkpoint against the order that the seed prescribes.

    `finished_at` is the step at which the run is recorded as finished, 0 for one that is not: steps beyond
    the newest good checkpoint are unproven then.
    """
    found = checkpoint.discover(files)
    walk = _Walk(files, spec)
    committed = found.newest.manifest.step if found.newest else 0
    walk.require_committed(committed, finished_at)
    if found.newest is not None:
        walk.go_back(committed, found.newest.manifest.ledger)
    verdicts = Counter(done.verdict for done in certificate.read_certificates(files))
    return Audit(
        run=files.run,
        committed_step=committed,
        steps=walk.steps,
        samples=walk.samples,
        lost=walk.counts[Kind.LOST],
        repeated=walk.counts[Kind.REPEATED],
        unproven=walk.counts[Kind.UNPROVEN],
        skipped=walk.skipped,
        problems=walk.findings,
        problems_left_out=walk.left_out,
        attempts=len(files.read_attempts()),
        certificates={verdict: verdicts[verdict] for verdict in Verdict},
        segments=len(walk.reached),
        orphan_segments=sorted(set(ledger.segment_files(files)) - walk.reached),
        notes=found.skipped,
    )


def render(audit: Audit) -> list[str]:
    """The audit as lines for a person; the last one is the verdict."""
    found = audit.certificates
    certificates = ", ".join(f"{found[verdict]} {verdict.value}" for verdict in Verdict)
    lines = [
        f"run           {audit.run}",
        f"committed     step {audit.committed_step}, over {audit.attempts} attempts",
        f"proven        {audit.steps} steps, {audit.samples} samples, in {audit.segments} ledger segments",
        f"lost          {audit.lost}",
        f"repeated      {audit.repeated}",
        f"unproven      {audit.unproven}",
        f"skipped       {audit.skipped}",
        f"certificates  {certificates}",
    ]
    if audit.orphan_segments:
        lines.append(f"orphans       {len(audit.orphan_segments)} segments of attempts that died")
    lines += [f"passed over   {note}" for note in audit.notes]
    lines += [f"{p.kind.value:<13} step {p.step}: {p.detail}{_listed(p.samples)}" for p in audit.problems]
    if audit.problems_left_out:
        lines.append(f"              and {audit.problems_left_out} more")
    return [*lines, _verdict(audit)]


def require_proven(audit: Audit) -> None:
    """Raise IntegrityError `train.audit_failed` unless the audit holds."""
    if not audit.is_proven:
        raise IntegrityError(
            f"The run `{audit.run}` lost {audit.lost} samples, repeated {audit.repeated}, "
            f"and {audit.unproven} are unproven.",
            code="train.audit_failed",
            hint=f"`linnet train audit {audit.run} --json` lists them by step.",
        )


class _Walk:
    """The way from the newest segment to step 1, and what was seen on it."""

    def __init__(self, files: RunFiles, spec: TrainSpec) -> None:
        self._files, self._spec = files, spec
        self._dataset_size: int | None = None
        self.steps = self.samples = self.skipped = self.left_out = 0
        self.counts: Counter[Kind] = Counter()
        self.findings: list[Finding] = []
        self.reached: set[str] = set()

    def go_back(self, committed: int, head: LedgerHead | None) -> None:
        """Account for the steps 1 to `committed`; those above `todo` already are."""
        todo, why = committed, "" if head else "its checkpoint names no ledger"
        while head is not None:
            self.reached.add(head.file)
            segment = self._read(head)
            self._account_gap(head.last_step + 1, todo, why)
            if isinstance(segment, Segment):
                why = ""
                self._check(segment, todo)
                following = segment.meta.previous
            else:
                why = segment
                self._account_gap(head.first_step, min(head.last_step, todo), why)
                following = self._older_head(head.first_step)
            todo, head = min(todo, head.first_step - 1), following
        self._account_gap(1, todo, why)

    def require_committed(self, committed: int, finished_at: int) -> None:
        """The steps of a finished run that no good checkpoint holds have no sound record."""
        self._account_gap(
            committed + 1, finished_at, "the run is recorded as finished without a good checkpoint of them"
        )

    def _read(self, head: LedgerHead) -> Segment | str:
        """The segment, or what is wrong with it."""
        try:
            segment = ledger.read_segment(self._files, head)
        except (NotFoundError, IntegrityError) as error:
            return error.message
        meta, spec = segment.meta, self._spec
        self._dataset_size = self._dataset_size or meta.dataset_size
        found = (meta.run, meta.seed, meta.batch_size, meta.dataset_size)
        expected = (self._files.run, spec.seed, spec.global_batch_size, self._dataset_size)
        if found != expected:
            return f"`{head.file}` is of (run, seed, batch size, dataset size) {found}, not {expected}."
        return segment

    def _older_head(self, step: int) -> LedgerHead | None:
        """The ledger of the newest kept checkpoint before `step`: the way on past a damaged segment."""
        for older in reversed(checkpoint.committed_steps(self._files)):
            try:
                head = checkpoint.manifest_of(self._files, older).ledger
            except (NotFoundError, IntegrityError):
                continue
            if head is not None and head.last_step < step:
                return head
        return None

    def _check(self, segment: Segment, todo: int) -> None:
        spec, head = self._spec, segment.head
        size, count = spec.global_batch_size, segment.table.num_rows
        samples, ends = segment.batches
        right = positions(
            spec.seed, (head.first_step - 1) * size, count * size, dataset_size=segment.meta.dataset_size
        )
        same_sizes = np.array_equal(ends, np.arange(1, count + 1) * size)
        if head.last_step <= todo and same_sizes and np.array_equal(samples, right):
            skipped = int(segment.skipped.sum()) * size
            self._count(count, count * size - skipped, skipped)
            return
        steps = range(head.first_step, head.last_step + 1)
        for step, trained, skipped in zip(steps, np.split(samples, ends[:-1]), segment.skipped, strict=True):
            self._check_step(step, trained.tolist(), bool(skipped), todo)

    def _check_step(self, step: int, trained: list[int], skipped: bool, todo: int) -> None:
        if step > todo:
            self._find(step, Kind.REPEATED, "recorded a second time, or beyond the checkpoint", trained)
            return
        right = self._prescribed(step)
        missing = list((Counter(right) - Counter(trained)).elements())
        extra = list((Counter(trained) - Counter(right)).elements())
        if missing:
            self._find(step, Kind.LOST, "prescribed, but not trained", missing)
        if extra:
            self._find(step, Kind.REPEATED, "trained, but not prescribed here", extra)
        if trained != right and not missing and not extra:
            self._find(step, Kind.ORDER, "the right samples in another order", trained)
        kept = len(trained) - len(extra)
        self._count(1, 0 if skipped else kept, kept if skipped else 0)

    def _account_gap(self, first: int, last: int, why: str) -> None:
        """The steps `first` to `last` have no record: because of `why`, else the ledger leaves them out."""
        size = self._spec.global_batch_size
        if first > last:
            return
        if why or self._dataset_size is None:
            detail = f"no sound record of the steps {first} to {last}: {why or 'nothing names them'}"
            self._add(Finding(step=first, kind=Kind.UNPROVEN, detail=detail), (last - first + 1) * size)
            return
        for step in range(last, first - 1, -1):
            self._find(step, Kind.LOST, "the whole step is missing in the ledger", self._prescribed(step))

    def _prescribed(self, step: int) -> list[int]:
        assert self._dataset_size is not None
        size = self._spec.global_batch_size
        return step_samples(self._spec.seed, step, dataset_size=self._dataset_size, batch_size=size)

    def _count(self, steps: int, samples: int, skipped: int) -> None:
        self.steps += steps
        self.samples += samples
        self.skipped += skipped

    def _find(self, step: int, kind: Kind, detail: str, samples: list[int]) -> None:
        self._add(Finding(step=step, kind=kind, detail=detail, samples=tuple(samples)), len(samples))

    def _add(self, finding: Finding, samples: int) -> None:
        self.counts[finding.kind] += samples
        if len(self.findings) < _MOST_FINDINGS:
            self.findings.append(finding)
        else:
            self.left_out += 1


def _listed(samples: tuple[int, ...]) -> str:
    more = ", …" if len(samples) > 8 else ""
    return f" (samples {', '.join(map(str, samples[:8]))}{more})" if samples else ""


def _verdict(audit: Audit) -> str:
    if not audit.committed_step and audit.is_proven:
        return "Nothing is committed yet, so that there is nothing to prove."
    if audit.is_proven:
        return f"Every step from 1 to {audit.committed_step} trained exactly what the seed prescribes, once."
    return "The ledger does not prove that every sample was trained once."

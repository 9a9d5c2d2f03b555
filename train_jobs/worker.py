"""What runs in each Ray Train worker: warm up, then train in one formation after another."""

from __future__ import annotations

import logging
import time
from typing import Any

from cluster.errors import IntegrityError, LinnetError
from cluster.recovery.classes import Signal
from cluster.storage import Storage
from train_jobs import bad_loss
from train_jobs.certificate import Certificate, Verdict
from train_jobs.early_stop import EarlyStop
from train_jobs.entry import WorkerJob
from train_jobs.evaluating import Evaluation, evaluate_together
from train_jobs.formation.group import Group, GroupLostError
from train_jobs.formation.member import CoordinatorLostError, Member
from train_jobs.formation.messages import End, Formation, Phase
from train_jobs.formation.ray_signals import signal_of
from train_jobs.journal import Journal
from train_jobs.loop import StepResult, Wishes
from train_jobs.objectives import Samples, make_objective
from train_jobs.resuming import Resuming
from train_jobs.run_files import RunFiles
from train_jobs.sampling import step_samples
from train_jobs.saving import Saver
from train_jobs.spec import Mismatch
from train_jobs.tracking import Trackers
from train_jobs.trainee import Trainee
from train_jobs.worker_log import log_to_file

_LOG = logging.getLogger("train_jobs")


class Worker:
    """One worker process."""

    def __init__(self, job: WorkerJob, member: Member, dataset: Samples, validation: Samples | None) -> None:
        self.job, self.spec, self.member = job, job.spec, member
        self.files = RunFiles(Storage(job.settings.root), job.spec.run)
        self._validation = validation
        self.trainee = Trainee(job.spec, job.settings, job.base, dataset, member.is_over)
        self.saver = Saver(job.spec, job.settings, self.files, member.committed)
        self.journal = Journal(self.files, Trackers(job.spec, self.files, job.settings))
        self._resuming = Resuming(self.files, self.trainee, self.journal)
        self._has_state = False
        self._proof = ""

    def live(self) -> dict[str, Any]:
        """Train whenever and with whomever the coordinator says, until the run has ended."""
        self.member.join()
        while True:
            order = self.member.next_formation(self.trainee.step if self._has_state else None)
            if isinstance(order, End):
                return {"step": order.step, "error": order.error}
            self._train_in(order)

    def _train_in(self, formation: Formation) -> None:
        member, rank = self.member, formation.workers.index(self.member.name)
        log_to_file(self.files, formation.attempt, rank)
        try:
            group = Group.form(formation.store, formation.generation, rank, formation.size, member.is_over)
            self._take_up(formation, group)
            self._train(formation, group)
        except GroupLostError as error:
            _LOG.warning("attempt %d: %s", formation.attempt, error)
            member.broken(str(error))
        except CoordinatorLostError:
            raise
        except Exception as error:
            _LOG.exception("attempt %d", formation.attempt)
            member.raised(error)
            if not isinstance(error, LinnetError) and signal_of(error) is not Signal.OUT_OF_MEMORY:
                raise

    def _take_up(self, formation: Formation, group: Group) -> None:
        self.member.mark(Phase.RESTORING)
        began = time.monotonic()
        had_state, self._has_state = self._has_state, False
        self.saver.settle()
        self.trainee.take_part(group, self.member.waiting)
        self.trainee.cut_microbatches(formation.microbatch_divisor)
        try:
            skipped = self._resuming.take_up(formation, group, had_state, self.member.mark)
        finally:
            self._has_state = self._resuming.has_state
        self.saver.head = self._resuming.head
        for sentence in skipped:
            _LOG.warning("skipped: %s", sentence)
        _LOG.info(
            "attempt %d goes on from step %d with %d of %d",
            formation.attempt, self.trainee.step, group.size, self.spec.slots,
        )  # fmt: skip
        if group.rank == 0:
            self.member.formed(self.trainee.step, skipped, time.monotonic() - began)
        rehearsed = self._resuming.judge_rehearsal()
        self._proof = rehearsed.verdict.value if rehearsed else ""
        if rehearsed is not None:
            self._certify(group, rehearsed)

    def _train(self, formation: Formation, group: Group) -> None:
        trainee, member = self.trainee, self.member
        self._complete_step(formation, group)
        while trainee.step < self.spec.max_steps and not self._has_stopped_improving():
            began = time.monotonic()
            wishes = Wishes(member.wants_regroup, member.wants_commit, self.saver.committed_step)
            self._has_state = False
            ceiling = self.journal.ceiling(self.spec.failures.spike_factor)
            try:
                result = trainee.loop.run_step(trainee.step + 1, group, wishes, member.mark, ceiling=ceiling)
            except Exception:
                self._has_state = not trainee.loop.is_updating
                raise
            trainee.step += 1
            self._has_state = True
            member.compute_s = result.compute_s
            self._account(formation, group, result, began)
            if self._save_is_due(result):
                self._save(formation, group, at_once=result.wishes.commit)
            if result.wishes.regroup and trainee.step < self.spec.max_steps:
                member.mark(Phase.SAVING)
                self.saver.settle()
                return
        self._finish(formation, group)

    def _complete_step(self, formation: Formation, group: Group) -> None:
        """What a failure left undone after the step that the formation goes on from."""
        step = self.trainee.step
        self._evaluate(group, step)
        if group.rank == 0:
            self.member.mark(Phase.SAVING)
            self.journal.catch_up(time.time())
        if self._agree(group, self._is_save_step(step) and self.saver.committed_step < step):
            self._save(formation, group, at_once=False)

    def _agree(self, group: Group, said: bool) -> bool:
        """What rank 0 says."""
        with self.member.waiting():
            return bool(group.from_rank(0, said))

    def _has_stopped_improving(self) -> bool:
        patience = self.spec.early_stopping_patience
        if patience is None:
            return False
        rule = EarlyStop(patience, self.spec.early_stopping_threshold)
        return rule.decide(self.journal.evaluations).stop

    def _account(self, formation: Formation, group: Group, result: StepResult, began: float) -> None:
        """Keep the ledger, compare what is done again, judge the loss; all of it alike on every member."""
        self.journal.trim(result.wishes.committed)
        entry = self.journal.enter(result, formation.attempt)
        certificate = self._resuming.compare(entry)
        proof, self._proof = certificate.verdict.value if certificate else self._proof, ""
        if certificate is not None:
            self._certify(group, certificate)
        if not result.applied:
            self._bad_loss(result)
        self._evaluate(group, result.step)
        seconds = time.monotonic() - began
        if group.rank == 0:
            self.member.mark(Phase.SAVING)
            self.journal.write(entry, seconds)
            skipped = "" if result.applied else bad_loss.told_of(result)
            self.member.advanced(result.step, seconds, proof, skipped)
            self.saver.witnessed()

    def _certify(self, group: Group, certificate: Certificate) -> None:
        if group.rank == 0:
            self.journal.add_certificate(certificate)
        if certificate.verdict is Verdict.UNEQUAL and self.spec.failures.on_mismatch is Mismatch.STOP:
            raise IntegrityError(
                f"Step {certificate.replayed_steps[-1]} came out differently when it was done again: "
                f"{certificate.difference}.",
                code="train.certificate",
                hint="Other hardware or packages? `failures.on_mismatch=warn` goes on all the same.",
            )

    def _bad_loss(self, result: StepResult) -> None:
        rule, skips = self.spec.failures.on_bad_loss, self.journal.skips
        error = bad_loss.error_of(rule, result, skips, self._sample_ids)
        if error is not None:
            raise error
        names = ", ".join(self._sample_ids(result.step))
        _LOG.warning("skipped: %s; its samples are %s", bad_loss.told_of(result), names)

    def _sample_ids(self, step: int) -> list[str]:
        ids, batch = self.trainee.dataset.ids, self.spec.global_batch_size
        return [ids[i] for i in step_samples(self.spec.seed, step, dataset_size=len(ids), batch_size=batch)]

    def _evaluate(self, group: Group, step: int) -> None:
        """See what the validation samples come to after a step that is due for it; once a step."""
        spec, member, trainee = self.spec, self.member, self.trainee
        if self._validation is None or not spec.eval_steps or not step or step % spec.eval_steps:
            return
        if self.journal.eval_loss(step) is not None:
            return
        member.mark(Phase.EVALUATING, step)
        todo = Evaluation(
            spec,
            trainee.model,
            make_objective(spec, self._validation, trainee.model, trainee.reference),
            len(self._validation),
            max(1, spec.per_device_eval_batch_size // trainee.loop.microbatch_divisor),
            in_step=trainee.layout.is_sharded,
        )
        found = evaluate_together(todo, group, lambda: member.mark(Phase.EVALUATING), member.waiting)
        self.journal.enter_evaluation(step, found)

    def _save_is_due(self, result: StepResult) -> bool:
        wishes = result.wishes
        return self._is_save_step(result.step) or (wishes.commit and result.step > wishes.committed)

    def _is_save_step(self, step: int) -> bool:
        is_last = step == self.spec.max_steps or self._has_stopped_improving()
        return is_last or step % self.spec.save_steps == 0

    def _save(self, formation: Formation, group: Group, *, at_once: bool) -> None:
        if group.rank != 0:
            self.trainee.layout.hand_over()
            return
        self.member.mark(Phase.SAVING, self.trainee.step)
        pending, evaluated = self.journal.pending(), self.journal.eval_loss(self.trainee.step)
        self.saver.save(self.trainee, pending, formation, evaluated, at_once=at_once)

    def _finish(self, formation: Formation, group: Group) -> None:
        """Rank 0 says that the run is over when its last checkpoint is complete; the others wait for that."""
        if group.rank == 0:
            self.member.mark(Phase.SAVING)
            self.saver.drain()
        # Whoever was to save the last step may be gone, or its save refused.
        if self._agree(group, self.saver.committed_step < self.trainee.step):
            self._save(formation, group, at_once=True)
        if group.rank == 0:
            self.saver.drain()
            self.journal.close()
            self.member.finished(self.trainee.step)

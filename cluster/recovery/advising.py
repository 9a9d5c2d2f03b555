"""The one setting that would have made a failure cheapest."""

from __future__ import annotations

from cluster.config import StrictModel
from cluster.recovery.classes import FailureClass
from cluster.recovery.receipts import Receipt
from cluster.recovery.situation import Reason, Tolerance

_SHORTEST_TIMEOUT_S = 1.0
_STEPS_OF_PATIENCE = 5.0
_MOST = 0.5
_CHEAP_S = 1.0
_SILENT = frozenset({FailureClass.HUNG_RANK, FailureClass.NETWORK_STALL})
_LOST = frozenset(
    {
        FailureClass.WORKER_CRASH,
        FailureClass.HUNG_RANK,
        FailureClass.NODE_LOST,
        FailureClass.NETWORK_STALL,
        FailureClass.NODE_DRAINING,
    }
)


class SpecFacts(StrictModel):
    """What a run's spec says about failures; `step_s` is what one step takes, in seconds.

    `may_continue`: survivors could go on without the lost one, did the spec say so.
    """

    tolerance: Tolerance
    may_continue: bool = True
    hang_timeout_s: float
    save_steps: int
    standby: int
    per_device_train_batch_size: int
    step_s: float


def advise(receipt: Receipt, facts: SpecFacts) -> str:
    """The setting as `key: value`, and why; or why no setting would have helped."""
    by_class = _by_class(receipt, facts)
    if by_class is not None:
        return by_class
    if receipt.total_s < _CHEAP_S:
        return f"none: {receipt.total_s:.1f} s is what a failure costs at least"
    return _by_cost(receipt, facts)


def _by_class(receipt: Receipt, facts: SpecFacts) -> str | None:
    """Where it is not about time."""
    rows = facts.per_device_train_batch_size
    if receipt.failure_class is FailureClass.OUT_OF_MEMORY and rows > 1:
        return (
            f"per_device_train_batch_size: {rows // 2}, with gradient_accumulation_steps doubled, since "
            f"microbatches of {rows} rows did not fit into memory, and the global batch stays the same"
        )
    if receipt.failure_class is FailureClass.BAD_LOSS and receipt.reason is Reason.AS_SPECIFIED:
        return "failures.on_bad_loss: skip, which leaves the batch out and goes on"
    if receipt.failure_class in _LOST and receipt.attempt_after is not None:
        return None
    return "none: the cause has to go, no setting shortens it"


def _by_cost(receipt: Receipt, facts: SpecFacts) -> str:
    """By the part that is more than half of the time."""
    most, of_all = _MOST * receipt.total_s, f"of {receipt.total_s:.1f} s"
    redone_s = min(receipt.steps_redone * facts.step_s, receipt.total_s)
    timeout = max(_SHORTEST_TIMEOUT_S, _STEPS_OF_PATIENCE * facts.step_s, facts.hang_timeout_s / 4)
    fewer = max(1, receipt.steps_redone // 4)
    if receipt.detect_s > most and receipt.failure_class in _SILENT and timeout < facts.hang_timeout_s:
        return (
            f"failures.hang_timeout_s: {timeout:.3g}, since {receipt.detect_s:.1f} {of_all} went by before "
            f"it was noticed and a step takes {facts.step_s:.2g} s"
        )
    if receipt.waited_s > most and facts.standby == 0:
        return f"standby: 1, since {receipt.waited_s:.1f} {of_all} were spent on waiting for a new process"
    if redone_s > most and fewer < facts.save_steps:
        return (
            f"save_steps: {fewer}, since {receipt.steps_redone} steps ({redone_s:.1f} {of_all}) were done "
            f"again with a commit each {facts.save_steps} steps"
        )
    proof_s = receipt.recover_s - receipt.waited_s
    if facts.tolerance is Tolerance.RESTART and facts.may_continue and proof_s > most:
        return (
            f"fault_tolerance: continue, since survivors then go on without a proof: {proof_s:.1f} {of_all} "
            "were spent on repeating a committed step"
        )
    return "none: no part of the time depends on a setting that could be tighter"

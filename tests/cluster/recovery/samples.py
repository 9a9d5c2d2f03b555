"""Receipts for tests."""

from cluster.recovery.receipts import Receipt, Victim

STACK = "\n".join(f"    frame_{n} (train_jobs/file_{n}.py:{n})" for n in range(20))


def receipt(**changes) -> Receipt:
    """A crashed worker of a run in restart mode: 7 steps redone, 10 s to new work."""
    facts = {
        "number": 1, "run": "run-1", "failure_class": "worker_crash", "detail": "its process ended",
        "strategy": "restart_from_commit", "reason": "transient",
        "decided": "A new worker takes the empty place; all go on from the commit of step 20.",
        "attempt_before": 1, "attempt_after": 2, "step": 27, "committed_step": 20,
        "victim": Victim(rank=1, pid=4242, node="10.0.0.2"), "at": 1000.0, "detect_s": 0.5, "isolate_s": 0.5,
        "recover_s": 5.0, "verify_s": 4.0, "total_s": 10.0, "steps_redone": 7, "samples_redone": 112,
        "goodput": 0.7, "certificate": "equal", **changes,
    }  # fmt: skip
    return Receipt.model_validate(facts)

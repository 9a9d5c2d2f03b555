"""Early stop, held against transformers' own callback on any sequence of losses."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train_jobs.early_stop import EarlyStop, evaluations
from train_jobs.run_files import StepRecord

LOSSES = st.lists(st.sampled_from([n / 8 for n in range(16)]), min_size=1, max_size=20)


def numbered(losses):
    return [(10 * (index + 1), loss) for index, loss in enumerate(losses)]


def transformers_stops_at(losses, patience, threshold):
    """Index of the evaluation after which transformers' trainer stops, or None."""
    from transformers import EarlyStoppingCallback, TrainerControl, TrainerState

    arguments = SimpleNamespace(metric_for_best_model="eval_loss", greater_is_better=False)
    callback = EarlyStoppingCallback(patience, threshold)
    state, control = TrainerState(), TrainerControl()
    for index, loss in enumerate(losses):
        callback.on_evaluate(arguments, state, control, {"eval_loss": loss})
        if control.should_training_stop:
            return index
        state.best_metric = loss if state.best_metric is None else min(state.best_metric, loss)
    return None


@given(LOSSES, st.integers(1, 4), st.sampled_from([0.0, 0.125, 0.5]))
def test_it_stops_where_transformers_does(losses, patience, threshold):
    rule = EarlyStop(patience, threshold)
    pairs = numbered(losses)
    stops = (index for index in range(len(pairs)) if rule.decide(pairs[: index + 1]).stop)
    assert next(stops, None) == transformers_stops_at(losses, patience, threshold)


@given(LOSSES, st.randoms())
def test_steps_redone_after_a_failure_change_nothing(losses, random):
    pairs = numbered(losses)
    cut = random.randrange(len(pairs))
    redone = [*pairs, *pairs[cut:]]
    assert EarlyStop(2).decide(redone) == EarlyStop(2).decide(pairs)


def test_the_best_step_has_the_lowest_loss_even_below_the_threshold():
    decision = EarlyStop(patience=3, threshold=0.5).decide(numbered([2.0, 1.9, 1.8, 1.85]))
    assert (decision.stop, decision.best_step, decision.best_loss, decision.waited) == (True, 30, 1.8, 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_never_better(bad):
    assert EarlyStop(2).decide(numbered([bad, bad])).best_step is None
    decision = EarlyStop(2).decide(numbered([1.0, bad, 0.5]))
    assert (decision.stop, decision.best_step, decision.waited) == (False, 30, 0)


def test_no_evaluations_stop_nothing():
    assert not EarlyStop(1).decide([]).stop


def test_evaluations_are_read_from_the_journal_up_to_a_step():
    def record(step, **found):
        return StepRecord(
            step=step, loss=1.0, grad_norm=1.0, learning_rate=1e-3, tokens=1, tokens_per_s=1.0,
            step_s=1.0, attempt=1, at=0.0, eval=found,
        )  # fmt: skip

    journal = [record(1), record(2, eval_loss=0.5), record(3), record(4, eval_loss=0.25)]
    assert evaluations(journal, up_to=4) == [(2, 0.5), (4, 0.25)]
    assert evaluations(journal, up_to=3) == [(2, 0.5)]

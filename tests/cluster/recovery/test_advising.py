import pytest

from cluster.recovery.advising import SpecFacts, advise
from tests.cluster.recovery.samples import receipt


def facts(**changes):
    values = {
        "tolerance": "restart", "hang_timeout_s": 10.0, "save_steps": 50, "standby": 0,
        "per_device_train_batch_size": 8, "step_s": 0.1, **changes,
    }  # fmt: skip
    return SpecFacts.model_validate(values)


HUNG = receipt(failure_class="hung_rank", detect_s=10.5, total_s=13.5, steps_redone=0)
WAITED = receipt(waited_s=8.0, recover_s=9.0, total_s=11.0)
REDID = receipt(steps_redone=40, total_s=60.0, verify_s=50.0)


def test_late_noticing_asks_for_a_shorter_timeout_that_still_holds_a_step():
    assert advise(HUNG, facts()).startswith("failures.hang_timeout_s: 2.5, since 10.5 of 13.5 s")
    assert advise(HUNG, facts(step_s=1.0)).startswith("failures.hang_timeout_s: 5,")
    assert advise(HUNG, facts(step_s=3.0)).startswith("none")
    assert advise(HUNG, facts(hang_timeout_s=1.0)).startswith("none")


def test_waiting_for_a_process_asks_for_a_standby_where_there_is_none():
    assert advise(WAITED, facts()).startswith("standby: 1, since 8.0 of 11.0 s")
    assert advise(WAITED, facts(standby=1)).startswith("none")


def test_many_steps_redone_ask_for_more_commits():
    assert advise(REDID, facts(step_s=1.2)).startswith("save_steps: 10, since 40 steps (48.0 of 60.0 s)")
    assert not advise(REDID, facts(step_s=0.1)).startswith("save_steps")
    one = receipt(steps_redone=1, total_s=2.0)
    assert not advise(one, facts(step_s=1.9, save_steps=1)).startswith("save_steps")


def test_a_long_proof_asks_to_go_on_without_it():
    proved = receipt(recover_s=9.0, waited_s=1.0)
    told = advise(proved, facts())
    assert told.startswith("fault_tolerance: continue")
    assert "8.0 of 10.0 s" in told
    assert advise(proved, facts(tolerance="continue")).startswith("none")
    assert advise(proved, facts(may_continue=False)).startswith("none")


def test_what_is_as_cheap_as_it_gets_is_left_alone():
    assert advise(receipt(total_s=0.8), facts()) == "none: 0.8 s is what a failure costs at least"


def test_memory_asks_for_smaller_microbatches_of_the_same_global_batch():
    told = advise(receipt(failure_class="out_of_memory"), facts())
    assert told.startswith("per_device_train_batch_size: 4, with gradient_accumulation_steps doubled")
    assert advise(receipt(failure_class="out_of_memory"), facts(per_device_train_batch_size=1)).startswith(
        "none"
    )


def test_a_bad_loss_that_stopped_names_the_key_that_skips():
    stopped = receipt(failure_class="bad_loss", strategy="stop", reason="as_specified", attempt_after=None)
    assert advise(stopped, facts()).startswith("failures.on_bad_loss: skip")


@pytest.mark.parametrize(
    "changes",
    [
        {"failure_class": "program_error"},
        {"failure_class": "storage_refused"},
        {"failure_class": "driver_lost"},
        {"attempt_after": None, "strategy": "stop", "reason": "budget_spent"},
    ],
)
def test_where_only_the_cause_matters_no_setting_is_named(changes):
    assert advise(receipt(**changes), facts()) == "none: the cause has to go, no setting shortens it"

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.recovery.classes import FailureClass
from cluster.recovery.printing import render, render_table
from cluster.recovery.situation import Strategy
from tests.cluster.recovery.samples import STACK, receipt


def test_a_receipt_says_all_that_it_knows():
    told = receipt(stack=STACK, advice="standby: 1, since it waited", waited_s=3.0, backoff_s=1.0)
    text = " ".join(" ".join(render(told)).split())
    for part in (
        "receipt 1: worker_crash after step 27, newest commit step 20",
        "rank 1, pid 4242 on 10.0.0.2",
        "its process ended",
        "restart_from_commit (transient). A new worker takes",
        "10.0 s: detect 0.5, isolate 0.5, recover 5.0, verify 4.0",
        "3.0 s waiting for a process, 1.0 s backing off",
        "7 steps, 112 samples done again; certificate equal; goodput 70%; attempt 1 -> 2",
        "frame_0 ",
        "... 8 more lines",
        "standby: 1, since it waited",
    ):
        assert part in text
    assert "frame_12" not in text


def test_a_receipt_without_victim_stack_or_aftermath_leaves_them_out():
    text = "\n".join(render(receipt(victim=None, attempt_after=None)))
    for label in ("victim", "stack", "work", "advice"):
        assert f"  {label} " not in text


@given(detail=st.text(max_size=400), stack=st.text(max_size=400), failure_class=st.sampled_from(FailureClass))
def test_no_line_is_wider_than_a_terminal(detail, stack, failure_class):
    told = receipt(detail=detail, stack=stack, advice=detail, failure_class=failure_class)
    assert max(map(len, render(told))) <= 100


def test_the_table_lines_up_and_adds_up():
    other = receipt(number=12, failure_class="hung_rank", victim=None, total_s=2.5)
    lines = render_table([receipt(), other])
    assert [line.split()[1] for line in lines[:3]] == ["CLASS", "worker_crash", "hung_rank"]
    column = lines[0].index("STRATEGY")
    assert [line[column:] for line in lines[1:3]] == ["restart_from_commit"] * 2
    assert lines[-2] == "2 failures, 12.5 s, 14 steps redone"


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("failure_class", FailureClass)
def test_the_table_fits_a_terminal(failure_class, strategy):
    wide = receipt(
        number=999, failure_class=failure_class, strategy=strategy, step=99_999, committed_step=99_999,
        certificate="unequal", total_s=999.9, recover_s=999.9, steps_redone=999,
    )  # fmt: skip
    assert max(map(len, render_table([wide]))) <= 100


def test_no_failures_is_said():
    assert render_table([]) == ["no failures"]


def test_the_samples_of_a_step_that_is_to_blame_are_named_up_to_a_number():
    few = "\n".join(render(receipt(samples=("a", "b"))))
    assert "samples   a, b" in few
    many = " ".join("\n".join(render(receipt(samples=tuple(f"s{n}" for n in range(20))))).split())
    assert "s15 and 4 more" in many
    assert "samples" not in "\n".join(line[:10] for line in render(receipt()))

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_apps.gateway.retry_budget import PER_S, RATIO, RESERVE, RetryBudget


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def drained(clock: Clock) -> RetryBudget:
    budget = RetryBudget(clock)
    while budget.spend():
        pass
    return budget


def test_a_lost_replicas_requests_are_within_it():
    budget = RetryBudget(Clock())
    assert all(budget.spend() for _ in range(int(RESERVE)))
    assert not budget.spend()


def test_requests_and_seconds_earn_retries():
    clock = Clock()
    budget = drained(clock)
    for _ in range(5):
        budget.earn()
    assert [budget.spend() for _ in range(2)] == [True, False]
    clock.now = 2.0
    assert sum(budget.spend() for _ in range(20)) == 2 * PER_S


@given(st.lists(st.sampled_from(["request", "second", "retry"]), max_size=3000))
def test_no_order_of_events_spends_more_than_was_earned(happened):
    clock, spent, earned = Clock(), 0, RESERVE
    budget = RetryBudget(clock)
    for event in happened:
        if event == "request":
            budget.earn()
            earned += RATIO
        elif event == "second":
            clock.now += 1.0
            earned += PER_S
        else:
            spent += budget.spend()
    assert spent <= earned + 1e-6

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from cluster.state.tallies import GatewayTally
from cluster.tally import Tally
from serve_apps.rollout.forecast.today import Share, Today, from_tallies

NOON = datetime(2026, 11, 22, 12)
LOGGED = Today(requests=100, seconds=10, answers=90, shares={"error_rate": Share(1, 90)}, source="the log")


def tally(revision: int, begin: float, end: float, requests: int, **counts: int) -> GatewayTally:
    versions = {"v1": {"counts": {"requests": requests, **counts}}, "v2": {"counts": {"requests": 10}}}
    return GatewayTally(
        gateway=f"g{begin}",
        model="m",
        revision=revision,
        applied_at=NOON + timedelta(seconds=begin),
        seen_at=NOON + timedelta(seconds=end),
        tally=Tally.model_validate({"versions": versions}),
    )


def test_gateways_of_one_revision_count_at_the_same_time():
    found = from_tallies([tally(1, 0, 100, 190), tally(1, 1, 101, 190), tally(2, 500, 599, 90)], "v1")
    assert found.requests == 500
    assert found.seconds == 101 + 99
    assert found.answers == 470


def test_texts_have_their_own_exposure():
    found = from_tallies([tally(1, 0, 100, 190, texts=50, refusal=2, json_texts=10)], "v1")
    assert found.shares["refusal_rate"] == Share(2, 50)
    assert found.shares["error_rate"] == Share(0, 190)
    assert found.json_share == 0.2


def test_how_far_errors_come_in_clusters_is_told_over_all_gateways_and_kept_beside_the_log():
    fives = {"errors": 10, "pairs_requests": 40, "pairs_errors": 40}
    counted = from_tallies([tally(1, 0, 100, 1000, **fives), tally(1, 1, 101, 1000, errors=10)], "v1")
    assert counted.shares["error_rate"].effect == pytest.approx(3, abs=0.01)
    assert counted.shares["timeout_rate"].effect == 1
    assert LOGGED.beside(counted).shares["error_rate"] == replace(counted.shares["error_rate"], bad=1, n=90)


def test_gateways_that_count_nothing_say_nothing():
    empty = tally(1, 0, 100, 0).model_copy(update={"tally": Tally()})
    assert from_tallies([empty], "v1") == Today()
    assert from_tallies([tally(1, 0, 100, 10)], "v9") == Today()


def test_the_log_is_believed_first_and_the_tallies_add_what_it_does_not_hold():
    counted = Today(
        requests=5,
        seconds=60,
        answers=5,
        shares={"error_rate": Share(5, 5), "refusal_rate": Share(1, 5)},
        json_share=0.5,
    )
    both = LOGGED.beside(counted)
    assert both.shares == {"error_rate": Share(1, 90), "refusal_rate": Share(1, 5)}
    assert (both.per_second, both.answers, both.json_share) == (10, 90, 0.5)
    assert LOGGED.beside(Today()) is LOGGED
    assert Today().beside(counted) is counted

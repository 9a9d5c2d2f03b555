from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from serve_apps.standby import Proof, standbys, took_over

DAWN = datetime(2026, 11, 22)


def proofs_of(*names, standby=1):
    """The first is the oldest."""
    return {name: Proof(DAWN + timedelta(minutes=age), standby) for age, name in enumerate(names)}


def test_the_youngest_stands_by_and_a_new_one_moves_nobody():
    assert standbys(["a", "b"], proofs_of("a", "b"), 2) == {"b"}
    assert standbys(["b"], proofs_of("a", "b"), 2) == set()
    assert standbys(["c", "b"], proofs_of("a", "b", "c"), 2) == {"c"}


def test_one_that_has_not_been_read_yet_stands_by():
    assert standbys(["a", "new"], proofs_of("a"), 2) == {"new"}


def test_a_standby_takes_the_place_of_the_lost_one_before_the_replacement_is_there():
    known = proofs_of("a", "b", "c", "d")
    assert standbys(["b", "c", "d"], known, 4) == set()
    assert standbys(["a", "b", "c", "d"], known, 4) == {"d"}


def test_more_replicas_for_the_load_are_routed_and_fewer_leave_one_that_is():
    known = proofs_of("a", "b", "c")
    assert standbys("abc", known, 3) == {"c"}
    assert standbys("abc", known, 2) == {"b", "c"}
    assert standbys("abc", proofs_of("a", "b", "c", standby=7), 3) == {"b", "c"}


def test_the_newest_word_holds_while_a_changed_number_is_rolled_out():
    old, new = proofs_of("a", "b", standby=0), {"c": Proof(DAWN + timedelta(hours=1), 1)}
    assert standbys("ab", old, 3) == set()
    assert standbys("abc", old | new, 3) == {"c"}
    back = proofs_of("a", "b", standby=1) | {"c": Proof(DAWN + timedelta(hours=1), 0)}
    assert standbys("abc", back, 3) == set()


def test_without_a_number_or_a_proof_all_get_requests():
    assert standbys("ab", proofs_of("a", "b"), None) == set()
    assert standbys("ab", {}, 2) == set()


fleets = st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1)


@given(fleets, st.integers(0, 8), st.integers(0, 10), st.randoms())
def test_gateways_agree_whatever_order_they_were_told(names, spare, planned, random):
    known = proofs_of(*sorted(names), standby=spare)
    shuffled = random.sample(names, len(names))
    found = standbys(names, known, planned)
    assert standbys(shuffled, dict(random.sample(list(known.items()), len(known))), planned) == found
    assert len(names) - len(found) == (min(len(names), max(1, planned - spare)) if spare else len(names))


@given(fleets, st.integers(1, 8), st.integers(1, 10))
def test_an_arrival_moves_nobody_and_a_loss_moves_the_oldest_standby_alone(names, spare, planned):
    known = proofs_of(*names, "z", standby=spare)
    before = set(names) - standbys(names, known, planned)
    assert before <= {*names, "z"} - standbys([*names, "z"], known, planned)
    for lost in before:
        rest = [name for name in names if name != lost]
        after = set(rest) - standbys(rest, known, planned)
        waiting = [name for name in names if name not in before]
        assert after == before - {lost} | set(waiting[:1])


def test_the_oldest_standby_takes_over_from_a_routed_one_and_from_no_standby():
    known, later = proofs_of("a", "b", "c", standby=2), DAWN + timedelta(hours=1)
    assert took_over("a", ["b", "c"], known, later) == "b"
    assert took_over("b", ["a", "c"], known, later) is None
    assert took_over("a", ["b", "c"], proofs_of("a", "b", "c", standby=0), later) is None


def test_who_was_proven_after_a_loss_did_not_take_over():
    known = proofs_of("a", "b")
    assert took_over("a", ["b"], known, DAWN + timedelta(seconds=30)) is None
    assert took_over("a", ["b"], known, DAWN + timedelta(seconds=60)) == "b"

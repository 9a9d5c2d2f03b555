"""Pairs of what one caller did within a minute."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.gateway import callers
from serve_apps.gateway.callers import Callers
from serve_apps.gateway.tally import Finished, LookedAt
from tests.serve_apps.gateway.test_tally import observation, tally

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ASKED = st.lists(st.tuples(st.sampled_from([b"ada", b"kim", b"lea", b""]), st.booleans()), max_size=40)


def pairs(asked) -> dict[str, int]:
    """Of (caller, is an error), as the gateway counts them."""
    found = tally(
        Finished(observation(status=500 if bad else 200, at=NOON), "v1", 5, True, caller=caller)
        for caller, bad in asked
    )
    counts = found.versions["v1"].counts if found.versions else {}
    return {name: counts.get(f"pairs_{name}", 0) for name in ("requests", "errors", "internal")}


@given(ASKED)
def test_they_are_the_ordered_pairs_of_each_callers_own(asked):
    n, bad = Counter(caller for caller, _ in asked), Counter(caller for caller, is_bad in asked if is_bad)
    requests, errors = (sum(found[key] * (found[key] - 1) for key in found if key) for found in (n, bad))
    assert pairs(asked) == {"requests": requests, "errors": errors, "internal": errors}


@given(ASKED, st.randoms())
def test_their_order_is_the_same_to_them(asked, order):
    assert pairs(asked) == pairs(order.sample(asked, len(asked)))


@given(ASKED)
def test_there_are_never_more_of_errors_than_of_requests(asked):
    found = pairs(asked)
    assert found["errors"] <= found["requests"]


def test_texts_make_pairs_of_what_was_found_in_them():
    texts = [
        {"refusal": True},
        {"refusal": True, "invalid_json": True},
        {"refusal": False, "invalid_json": False},
    ]
    found = tally([LookedAt("v1", each, b"ada") for each in texts]).versions["v1"].counts
    assert found == {
        "texts": 3,
        "refusal": 2,
        "invalid_json": 1,
        "json_texts": 2,
        "pairs_texts": 6,
        "pairs_refusal": 2,
        "pairs_json_texts": 2,
    }


def test_another_version_and_another_minute_have_callers_of_their_own():
    at = [NOON, NOON + timedelta(seconds=59), NOON + timedelta(seconds=60)]
    rows = [observation(at=moment) for moment in at] + [observation("v2", at=NOON)]
    found = tally([Finished(row, row.version, 5, True, caller=b"ada") for row in rows])
    assert [found.versions[name].counts.get("pairs_requests", 0) for name in ("v1", "v2")] == [2, 0]


def test_one_that_ends_late_begins_no_minute_anew():
    at = [NOON + timedelta(seconds=60), NOON, NOON + timedelta(seconds=61)]
    found = tally([Finished(observation(at=moment), "v1", 5, True, caller=b"ada") for moment in at])
    assert found.versions["v1"].counts["pairs_requests"] == 6


def test_callers_beyond_what_is_kept_count_as_single(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(callers, "MOST", 2)
    seen, counts = Callers(), Counter()
    for caller in (b"ada", b"kim", b"lea", b"lea", b"kim"):
        seen.count(caller, ["requests"], counts)
    assert counts == {"pairs_requests": 2}

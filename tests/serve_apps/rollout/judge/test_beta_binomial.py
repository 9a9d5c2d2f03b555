from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.rollout.judge.beta_binomial import accepted, interval, log_e
from tests.serve_apps.rollout.judge.samples import binomial

SHARES = st.floats(0.001, 0.999)


@given(st.integers(0, 40), SHARES)
def test_the_evidence_against_the_truth_is_one_in_the_mean(n, share):
    mean = sum(chance * math.exp(log_e(hits, n, share)) for hits, chance in enumerate(binomial(n, share)))
    assert mean == pytest.approx(1.0)


@given(st.integers(1, 10**8), st.floats(0, 1), st.floats(1e-4, 0.5))
def test_an_ends_evidence_is_its_error(n, part, error):
    hits = round(part * n)
    low, high = interval(hits, n, low_error=error, high_error=error)
    assert 0 <= low <= hits / n <= high <= 1
    for end in (end for end in (low, high) if 1e-6 < end < 1 - 1e-6):
        assert log_e(hits, n, end) == pytest.approx(-math.log(error), abs=0.01)


def test_without_data_everything_is_possible():
    assert interval(0, 0, low_error=0.05, high_error=0.05) == (0.0, 1.0)


@given(st.integers(1, 500), st.floats(0, 1))
def test_a_smaller_error_makes_it_wider(n, part):
    hits = round(part * n)
    wide = interval(hits, n, low_error=0.01, high_error=0.01)
    narrow = interval(hits, n, low_error=0.2, high_error=0.2)
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]


@given(st.integers(1, 200), SHARES, st.floats(0.001, 0.3))
def test_what_is_accepted_is_what_has_little_evidence(n, share, error):
    least, most = accepted(n, share, error)
    fits = [hits for hits in range(n + 1) if log_e(hits, n, share) < -math.log(error)]
    assert (least, most) == (min(fits), max(fits))

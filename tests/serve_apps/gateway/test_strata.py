from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.gateway import strata

TOKENS = st.integers(0, 10**6)


@pytest.mark.parametrize(
    ("prompt", "answer", "stratum"),
    [
        (0, None, "p0a0"),
        (63, 31, "p0a0"),
        (64, 32, "p1a1"),
        (256, 128, "p2a2"),
        (1024, 512, "p3a3"),
        (4096, 10**6, "p4a3"),
    ],
)
def test_a_stratum_holds_sizes_within_a_factor_of_four(prompt, answer, stratum):
    assert strata.of_both(prompt, answer) == stratum
    assert strata.of_prompt(prompt) == stratum[:2]


@given(TOKENS, TOKENS)
def test_a_larger_size_is_never_in_a_lower_stratum(one, other):
    low, high = sorted((one, other))
    assert strata.of_prompt(low) <= strata.of_prompt(high)
    assert strata.of_both(0, low) <= strata.of_both(0, high)

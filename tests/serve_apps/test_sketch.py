from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.sketch import LARGEST, SMALLEST, SketchBuilder, bucket_of, middle, upper_edge

IN_RANGE = st.floats(SMALLEST, LARGEST)


@given(IN_RANGE)
def test_the_middle_of_its_bucket_is_within_one_percent_of_a_value(value):
    assert middle(bucket_of(value)) == pytest.approx(value, rel=0.0100001)


@given(IN_RANGE)
def test_a_bucket_begins_above_the_edge_of_the_one_before(value):
    bucket = bucket_of(value)
    assert upper_edge(bucket - 1) * (1 - 1e-9) < value <= upper_edge(bucket) * (1 + 1e-9)


@given(st.integers(-1000, 1300))
def test_an_edge_lies_in_the_bucket_that_it_closes(bucket):
    assert bucket_of(upper_edge(bucket)) == bucket


def test_what_lies_outside_counts_as_the_nearest_that_does_not():
    assert bucket_of(1e-300) == bucket_of(SMALLEST)
    assert bucket_of(1e300) == bucket_of(LARGEST)
    assert bucket_of(LARGEST) - bucket_of(SMALLEST) < 2420


def test_it_counts_by_bucket_in_order_and_zeros_apart():
    builder = SketchBuilder()
    for value in (2.0, 0.0, 0.5, 2.0):
        builder.add(value)
    builder.add(0.5, 10)
    stored = builder.to_json()
    assert stored == {"zeros": 1, "buckets": [[bucket_of(0.5), 11], [bucket_of(2.0), 2]]}


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_a_value_that_cannot_be_is_refused(value):
    with pytest.raises(ValueError, match="range"):
        SketchBuilder().add(value)


def test_a_negative_number_of_values_is_refused():
    with pytest.raises(ValueError, match="range"):
        SketchBuilder().add(1.0, -1)


def test_gateways_import_nothing_with_it():
    program = (
        "import sys, math, typing; before = set(sys.modules)\n"
        "import serve_apps.sketch; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"__future__", "serve_apps", "serve_apps.sketch"}

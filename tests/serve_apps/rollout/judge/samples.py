"""Data for the judge's tests."""

from __future__ import annotations

import math
from itertools import product

from hypothesis import strategies as st

from serve_apps.rollout.judge.blocks import Block
from serve_apps.rollout.judge.sketch import Sketch
from serve_apps.sketch import SketchBuilder


def sketch_of(values):
    builder = SketchBuilder()
    for value in values:
        builder.add(value)
    return Sketch.from_json(builder.to_json())


def binomial(n, share):
    return [math.comb(n, hits) * share**hits * (1 - share) ** (n - hits) for hits in range(n + 1)]


def mean_of_factors(factors_of, n_candidate, candidate, n_baseline, baseline):
    """The exact mean of what each bet multiplies by, over all counts that there can be."""
    ours, theirs = binomial(n_candidate, candidate), binomial(n_baseline, baseline)
    means = None
    for (bad_c, chance_c), (bad_b, chance_b) in product(enumerate(ours), enumerate(theirs)):
        factors = factors_of(Block(n_candidate, bad_c, n_baseline, bad_b))
        means = means or [0.0] * len(factors)
        means = [mean + chance_c * chance_b * math.exp(f) for mean, f in zip(means, factors, strict=True)]
    return means


@st.composite
def blocks(draw, largest=10**4):
    n_candidate, n_baseline = draw(st.integers(0, largest)), draw(st.integers(0, largest))
    return Block(n_candidate, draw(st.integers(0, n_candidate)), n_baseline, draw(st.integers(0, n_baseline)))

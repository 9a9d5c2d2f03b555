from __future__ import annotations

import pytest
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

from serve_apps.replay.ways import is_sampled, way_of
from serve_apps.replay.wire import Way

GREEDY = {"temperature": 0.0}


@pytest.mark.parametrize(
    ("asked", "way"),
    [
        (GREEDY, Way.PREFILL),
        ({"temperature": 0.7, "top_p": 0.9, "stop": ["x"]}, Way.PREFILL),
        ({"temperature": 0.7, "seed": 3}, Way.REPEAT),
        (GREEDY | {"logprobs": 2}, Way.REPEAT),
        (GREEDY | {"presence_penalty": 0.5}, Way.REPEAT),
        (GREEDY | {"repetition_penalty": 1.2, "min_tokens": 3}, Way.PREFILL),
        (GREEDY | {"structured_outputs": StructuredOutputsParams(json={"type": "object"})}, Way.REPEAT),
        (GREEDY | {"bad_words": ["no"]}, Way.REPEAT),
        ({"temperature": 0.7, "frequency_penalty": 0.5}, Way.NONE),
        ({"temperature": 0.7, "logprobs": 0}, Way.NONE),
        ({"temperature": 0.7, "n": 2}, Way.NONE),
    ],
)
def test_the_way_of_a_request(asked, way):
    assert way_of(SamplingParams(**asked)) is way


def test_only_draws_without_a_seed_are_sampled():
    assert is_sampled(SamplingParams(temperature=0.7))
    assert not is_sampled(SamplingParams(temperature=0.7, seed=1))
    assert not is_sampled(SamplingParams(temperature=0.0))

import json

import pytest

from cluster.storage import Storage
from tests.train_jobs.conftest import BASE
from train_jobs.base_config import BaseConfig, parse_config, read_config


def parsed(**keys):
    return parse_config(json.dumps(keys).encode())


def test_a_version_in_the_store_says_its_shape(store, settings):
    found = read_config(Storage(settings.root), BASE)
    assert found == BaseConfig(width=64, layers=2, vocabulary=found.vocabulary, context=1024)
    assert found.vocabulary > 256


def test_gpt2_has_names_of_its_own():
    found = parsed(n_embd=768, n_layer=12, n_positions=1024, n_ctx=1024, vocab_size=50257)
    assert found == BaseConfig(width=768, layers=12, vocabulary=50257, context=1024)


def test_of_a_model_with_further_parts_the_one_for_text_counts():
    text = {"hidden_size": 640, "num_hidden_layers": 18, "max_position_embeddings": 32768}
    found = parsed(hidden_size=1, vocab_size=9, text_config=text)
    assert found == BaseConfig(width=640, layers=18, vocabulary=9, context=32768)


def test_what_is_not_said_is_not_known():
    assert parsed(model_type="bloom", alibi=True) == BaseConfig()


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    ("context", "rope", "expected"),
    [
        (4096, None, 4096),
        (4096, {"rope_type": "default", "rope_theta": 1e4}, 4096),
        (2048, {"type": "linear", "factor": 4.0}, 8192),
        (32768, {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
        (131072, {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 131072),
        (None, {"type": "linear", "factor": 4.0}, None),
    ],
)
def test_scaled_rotary_positions_reach_further(key, context, rope, expected):
    assert parsed(max_position_embeddings=context, **{key: rope}).context == expected

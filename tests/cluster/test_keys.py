from datetime import datetime, timedelta

import pytest
from pydantic import ValidationError

from cluster import keys
from cluster.errors import UsageError
from cluster.keys import Grant, Limits

NOW = datetime(2027, 1, 1)


def test_secrets_are_long_new_each_time_and_marked():
    made = {keys.new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(secret.startswith("sk-linnet-") and len(secret) == 74 and secret.isascii() for secret in made)


def test_the_prefix_is_of_the_random_part():
    assert keys.prefix("sk-linnet-0123456789abcdef") == "01234567"


@pytest.mark.parametrize(
    ("lifetime", "length"),
    [
        ("90m", timedelta(minutes=90)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("8w", timedelta(weeks=8)),
    ],
)
def test_lifetimes(lifetime, length):
    assert keys.expiry(lifetime, NOW) == NOW + length


@pytest.mark.parametrize("lifetime", ["", "0d", "-3d", "30", "d", "1.5d", "30 d", "999999w", "3y", "30d\n"])
def test_what_is_no_lifetime_says_how_to_write_one(lifetime):
    with pytest.raises(UsageError) as caught:
        keys.expiry(lifetime, NOW)
    assert caught.value.code == "key.lifetime"
    assert "30d" in caught.value.hint


@pytest.mark.parametrize("limit", [0, -1, 2**31, 1.5, "many"])
@pytest.mark.parametrize("name", list(Limits.model_fields))
def test_limits_are_whole_and_positive_and_fit_the_columns(name, limit):
    with pytest.raises(ValidationError):
        Limits.model_validate({name: limit})


@pytest.mark.parametrize("name", ["", "a b", "-x", "a\nb", "a" * 65, "é", "a/b"])
def test_names_are_plain(name):
    with pytest.raises(ValidationError):
        Grant(name=name)


@pytest.mark.parametrize("model", ["m:v1", "m@stable"])
def test_a_grant_names_models_not_versions(model):
    with pytest.raises(ValidationError, match="model's name alone"):
        Grant(name="ada", models=(model,))

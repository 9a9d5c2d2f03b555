from __future__ import annotations

import pytest

from cluster.errors import ConfigError
from serve_apps.rollout.outside.environment import bearer, secret


def test_a_secret_is_as_it_was_set():
    assert secret({"KEY": " a b "}, "KEY", "The key") == " a b "


@pytest.mark.parametrize("environ", [{}, {"KEY": ""}, {"KEY": " \n"}])
def test_one_that_is_not_set_is_named_with_what_it_is_for(environ):
    with pytest.raises(ConfigError) as caught:
        secret(environ, "KEY", "The key")
    assert caught.value.message == "The key is expected in the variable KEY, which is not set."


def test_a_key_goes_into_a_header_without_the_line_end_of_its_file():
    assert bearer({"KEY": "sk-1\n"}, "KEY", "The key") == {"Authorization": "Bearer sk-1"}
    assert bearer({}, None, "The key") == {}


@pytest.mark.parametrize("key", ["sk\r\nx-admin: yes", "sk-ü", "sk\x00"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(key):
    with pytest.raises(ConfigError) as caught:
        bearer({"KEY": key}, "KEY", "The key")
    assert caught.value.code == "rollout.bad_secret"
    assert "sk" not in caught.value.message

from __future__ import annotations

import pytest

from cluster.config import validate
from cluster.errors import LinnetError
from serve_apps.gateway.config import AdminPaths, Auth, GatewayConfig


def test_one_model_or_several():
    assert GatewayConfig(model="m").models == ("m",)
    assert validate({"models": ["m", "n"]}, GatewayConfig, source="args").models == ("m", "n")
    again = GatewayConfig(**GatewayConfig(model="m").model_dump())
    assert again.models == ("m",)


def test_without_settings_nobody_needs_a_key():
    assert GatewayConfig(model="m").auth is Auth.NONE
    given = validate(
        {"model": "m", "auth": "required", "admin_paths": "public"}, GatewayConfig, source="args"
    )
    assert (given.auth, given.admin_paths) == (Auth.REQUIRED, AdminPaths.PUBLIC)


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"models": []},
        {"model": "m", "models": ["n"]},
        {"model": "m:v1"},
        {"model": "m@stable"},
        {"model": "a b"},
        {"model": "m", "connect_timeout_s": 0},
        {"model": "m", "max_body_bytes": -1},
        {"model": "m", "replica_wait": 3},
        {"model": "m", "auth": False},
        {"model": "m", "auth": "yes"},
        {"model": "m", "admin_paths": "open"},
        {"model": "m", "max_in_flight": 0},
        {"model": "m", "max_in_flight_per_replica": -1},
        {"model": "m", "max_queue": -1},
        {"model": "m", "queue_wait_s": -0.1},
    ],
)
def test_what_makes_no_sense_is_refused(args):
    with pytest.raises(LinnetError):
        validate(args, GatewayConfig, source="args")

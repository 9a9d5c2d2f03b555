from __future__ import annotations

import pytest

from cluster.config import validate
from cluster.errors import ConfigError
from serve_apps.gateway.config import GatewayConfig
from serve_apps.tracing.config import Protocol


def traces(**given):
    return validate({"model": "m", "traces": given}, GatewayConfig, source="args").traces


def test_both_protocols_and_their_defaults():
    assert GatewayConfig(model="m").traces is None
    grpc = traces(endpoint="http://collector:4317")
    assert (grpc.protocol, grpc.sample) == (Protocol.GRPC, 1.0)
    http = traces(endpoint="https://collector/v1/traces", protocol="http/protobuf", sample=0.1)
    assert (http.protocol, http.sample) == (Protocol.HTTP, 0.1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "endpoint"),
        ({"endpoint": "collector:4317"}, "is not an http or https URL"),
        ({"endpoint": "http://"}, "is not an http or https URL"),
        ({"endpoint": "http://collector:4318/v1/traces"}, "set protocol: http/protobuf"),
        (
            {"endpoint": "http://collector:4318/", "protocol": "http/protobuf"},
            "http://collector:4318/v1/traces",
        ),
        ({"endpoint": "http://c:1", "protocol": "http/json"}, "http/protobuf"),
        ({"endpoint": "http://c:1", "sample": 10}, "less than or equal to 1"),
        ({"endpoint": "http://c:1", "sampel": 0.1}, "sample"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(given, said):
    with pytest.raises(ConfigError, match=said):
        traces(**given)

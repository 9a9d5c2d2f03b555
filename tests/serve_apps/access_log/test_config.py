from __future__ import annotations

import pytest

from cluster.config import validate
from cluster.errors import ConfigError
from serve_apps.access_log.config import AccessLogConfig
from serve_apps.gateway.config import GatewayConfig


def test_prompts_are_not_kept_unless_the_spec_says_so():
    assert AccessLogConfig().prompts == "none"
    assert GatewayConfig(model="m").access_log == AccessLogConfig()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"redact": ["("]}, "not a regular expression"),
        ({"prompts": "of"}, "prompts"),
        ({"sample_rate": 2}, "sample_rate"),
        ({"promts": "all"}, "Did you mean `prompts`"),
        ({"flush_s": 0}, "flush_s"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given, named):
    with pytest.raises(ConfigError, match=named):
        validate({"model": "m", "access_log": given}, GatewayConfig, source="args")

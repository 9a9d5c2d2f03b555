"""What can be known of a policy before its rollout begins: a gate that could never judge is an error now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from serve_apps.rollout.outside import environment
from serve_apps.rollout.outside.config import QualityGate
from serve_apps.rollout.outside.placeholders import Names
from serve_apps.rollout.spec import RolloutSpec


def check(spec: RolloutSpec, names: Names, environ: Mapping[str, str]) -> None:
    """Raise ConfigError for a secret that is not there, a query that is none, or a set that cannot be used.

    A Prometheus that does not answer now is no error: its gate holds until it does.
    """
    for hook in [*spec.webhooks, *(gate.webhook for gate in spec.gates if gate.webhook is not None)]:
        environment.secret(environ, hook.secret_env, f"The secret of {hook.url}")
    if spec.slack is not None:
        environment.secret(environ, spec.slack.url_env, "The URL of the Slack webhook")
    for gate in spec.gates:
        if gate.data is not None:
            _check_held_out(gate.quality(), environ)
    asyncio.run(_check_queries(spec, names, environ))


def _check_held_out(gate: QualityGate, environ: Mapping[str, str]) -> None:
    from serve_apps.rollout.outside.quality.held_out import read_held_out

    environment.bearer(environ, gate.api_key_env, environment.ENDPOINTS_KEY)
    if gate.judge is not None:
        environment.bearer(environ, gate.judge.api_key_env, environment.judges_key(gate.judge.url))
    read_held_out(gate)


async def _check_queries(spec: RolloutSpec, names: Names, environ: Mapping[str, str]) -> None:
    queries = [gate.query() for gate in spec.gates if gate.prometheus is not None]
    if not queries:
        return
    import aiohttp

    from serve_apps.rollout.outside.prometheus import PrometheusClient

    async with aiohttp.ClientSession() as session:
        for query in queries:
            await PrometheusClient(query, session, environ).check_at_start(names)

"""A number of the user's own, asked of Prometheus (`POST /api/v1/query`) and held against a limit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import aiohttp

from cluster.errors import ConfigError
from serve_apps.rollout.outside import environment
from serve_apps.rollout.outside.config import PrometheusGate
from serve_apps.rollout.outside.http_call import Call, NoReply, Reply, post
from serve_apps.rollout.outside.placeholders import Names, fill
from serve_apps.rollout.outside.verdict import Answer, Verdict

SHOWN = 300
_KINDS_WITH_A_VALUE = ("vector", "scalar")


class Reading(Answer):
    """An answer with the number that it was made from, and the query as it was sent; None for no number."""

    value: float | None
    query: str


class _NoNumberError(Exception):
    """Prometheus gave nothing to compare; `final` where asking the same again would give no number either."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class PrometheusClient:
    """Asks for one gate's number. Raises ConfigError, when made, for a token that is not there."""

    def __init__(
        self, gate: PrometheusGate, session: aiohttp.ClientSession, environ: Mapping[str, str]
    ) -> None:
        self._gate = gate
        self._session = session
        asked = gate.prometheus
        self._headers = environment.bearer(environ, asked.token_env, f"The token for {asked.url}")

    async def read(self, names: Names) -> Reading:
        """Ask once and compare. Never raises for a fault of Prometheus or of the query."""
        reading, _ = await self._ask(names)
        return reading

    async def check_at_start(self, names: Names) -> Reading:
        """Ask once before a rollout begins; an inconclusive reading is then no fault of the query.

        Raises ConfigError for a query that Prometheus refuses, one whose result can never be a number, and an
        address where no Prometheus takes this token.
        """
        reading, final = await self._ask(names)
        if final:
            raise ConfigError(
                f"The query `{reading.query}` cannot be used: {reading.reason}.",
                code="rollout.prometheus_query",
                hint=f"Try it on {self._gate.prometheus.url} until it gives one number.",
            )
        return reading

    async def _ask(self, names: Names) -> tuple[Reading, bool]:
        """The reading, and whether the same would come of asking again."""
        query = fill(self._gate.prometheus.query, names)
        try:
            return compared(self._gate, await self._value(query), query), False
        except _NoNumberError as error:
            nothing = Reading(verdict=Verdict.INCONCLUSIVE, reason=str(error), value=None, query=query)
            return nothing, error.final

    async def _value(self, query: str) -> float:
        asked = self._gate.prometheus
        url = f"{asked.url.rstrip('/')}/api/v1/query"
        within = asked.timeout.total_seconds()
        call = Call(
            url, asked.timeout, form={"query": query, "timeout": f"{within:g}s"}, headers=self._headers
        )
        reply = await post(self._session, call)
        if isinstance(reply, NoReply):
            raise _NoNumberError(reply.reason)
        return number(reply)


def compared(gate: PrometheusGate, value: float, query: str) -> Reading:
    """The value against the limits, with both numbers in the reason."""
    low, high = gate.min, gate.max
    verdict = Verdict.PASS
    if high is not None and value > high:
        verdict, reason = Verdict.FAIL, f"{value:g} is above the maximum of {high:g}"
    elif low is not None and value < low:
        verdict, reason = Verdict.FAIL, f"{value:g} is below the minimum of {low:g}"
    elif low is None:
        reason = f"{value:g} is not above the maximum of {high:g}"
    elif high is None:
        reason = f"{value:g} is not below the minimum of {low:g}"
    else:
        reason = f"{value:g} is within the limits of {low:g} and {high:g}"
    return Reading(verdict=verdict, reason=reason, value=value, query=query)


def number(reply: Reply) -> float:
    """The one number of an answer of Prometheus."""
    if not 200 <= reply.status < 300:
        raise _refused(reply)
    try:
        data = reply.json()["data"]
        kind, result = data["resultType"], data["result"]
    except ValueError as error:
        raise _NoNumberError(f"the answer cannot be read: {error}") from None
    except (KeyError, TypeError):
        raise _NoNumberError("the answer is not one of Prometheus: it has no result") from None
    if kind not in _KINDS_WITH_A_VALUE:
        raise _NoNumberError(f"the result is a {kind}, not a number", final=True)
    return _finite(result if kind == "scalar" else _only(result))


def _refused(reply: Reply) -> _NoNumberError:
    try:
        said = reply.json()
        reason = f"{said['errorType']}: {said['error']}"[:SHOWN]
    except (ValueError, KeyError, TypeError):
        reason = reply.text(SHOWN)
    return _NoNumberError(
        f"Prometheus answered {reply.status}: {reason}", final=reply.status in (400, 401, 403, 404, 405)
    )


def _only(result: Any) -> Any:
    if not isinstance(result, list) or not result:
        raise _NoNumberError("there is no series that fits, or none with a recent value")
    if len(result) > 1:
        raise _NoNumberError(f"there are {len(result)} series where one is expected; sum or select them")
    return result[0].get("value") if isinstance(result[0], dict) else None


def _finite(sample: Any) -> float:
    try:
        _at, text = sample
        value = float(text)
    except (TypeError, ValueError):
        raise _NoNumberError("the answer is not one of Prometheus: it has no value") from None
    if not math.isfinite(value):
        raise _NoNumberError(f"the value is {text}, which cannot be compared")
    return value

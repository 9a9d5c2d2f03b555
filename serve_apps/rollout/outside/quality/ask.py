"""Asking one version a held-out question, through the endpoint's gateway as any caller would.

What keeps a version from answering is told from what keeps the question from reaching it: the gateway names
the version in each answer that comes from it, or for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from serve_apps.rollout.outside import environment
from serve_apps.rollout.outside.config import QualityGate
from serve_apps.rollout.outside.http_call import Call, NoReply, Reply, post
from serve_apps.rollout.outside.quality import chat
from serve_apps.rollout.outside.quality.rows import Question

PIN_HEADER = "x-linnet-version"
KEY_HEADER = "x-linnet-key"
KEY = "linnet-quality"
"""Whom the access log names for held-out questions."""

SHOWN = 200
_OVERLOADED = 429


@dataclass(frozen=True, slots=True)
class Text:
    """The version answered, be it with nothing."""

    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The version was asked and did not answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unasked:
    """The question did not reach the version, which says nothing about it."""

    reason: str


Outcome = Text | Failed | Unasked


class EndpointClient:
    """Asks one model's versions. Raises ConfigError, when made, for a key that is not there."""

    def __init__(
        self,
        url: str,
        model: str,
        gate: QualityGate,
        session: aiohttp.ClientSession,
        environ: Mapping[str, str],
    ) -> None:
        self._url = f"{url.rstrip('/')}/v1/chat/completions"
        self._model = model
        self._gate = gate
        self._session = session
        key = environment.bearer(environ, gate.api_key_env, environment.ENDPOINTS_KEY)
        self._headers = {"Content-Type": "application/json", KEY_HEADER: KEY, **key}

    async def ask(self, question: Question, version: str) -> Outcome:
        """One greedy answer. Never raises for a fault of the endpoint."""
        call = Call(
            self._url,
            self._gate.timeout,
            body=chat.request(self._model, question.messages, self._gate.max_tokens),
            headers={**self._headers, PIN_HEADER: version},
            largest=chat.LARGEST,
        )
        return outcome(await post(self._session, call), version)


def outcome(reply: Reply | NoReply, version: str) -> Outcome:
    """What the reply says of the version that was asked for."""
    if isinstance(reply, NoReply):
        # A version that takes too long is at fault; a gateway that is not there is another matter.
        return Failed(reply.reason) if reply.late else Unasked(reply.reason)
    answered_by = reply.headers.get(PIN_HEADER)
    if answered_by != version:
        return Unasked(f"status {reply.status} of {answered_by or 'no version'}: {reply.text(SHOWN)}")
    if reply.status == _OVERLOADED:
        return Unasked(f"status {reply.status}: {reply.text(SHOWN)}")
    if reply.status != 200:
        return Failed(f"status {reply.status}: {reply.text(SHOWN)}")
    try:
        return Text(chat.answer(reply))
    except ValueError as error:
        return Failed(f"the answer cannot be read: {error}")

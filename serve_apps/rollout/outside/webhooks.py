"""Webhooks: people's own programs that agree to a start or a step, judge a candidate, or are told.

The kinds and their answers follow Flagger's webhooks, but for this: a receiver that cannot be reached, or
says nothing that can be understood, is never a yes and never a no.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import aiohttp

from cluster.errors import one_of
from serve_apps.rollout.outside import environment, signing
from serve_apps.rollout.outside.config import Webhook, WebhookKind
from serve_apps.rollout.outside.http_call import Call, NoReply, Reply, post
from serve_apps.rollout.outside.message import Message, Moment
from serve_apps.rollout.outside.verdict import Answer, Verdict, inconclusive

NOT_SAID = frozenset({401, 404, 408, 425, 429})
"""Of a receiver that does not know the caller, is not there, or has no time: no word on the candidate."""

SHOWN = 300
"""Characters of a refusal that are kept as its reason."""


def utc_clock() -> datetime:
    """Now, with its zone."""
    return datetime.now(UTC)


class WebhookClient:
    """Calls one webhook. Raises ConfigError, when made, for a secret that is not there."""

    def __init__(
        self,
        config: Webhook,
        session: aiohttp.ClientSession,
        environ: Mapping[str, str],
        clock: Callable[[], datetime] = utc_clock,
    ) -> None:
        self.config = config
        self._session = session
        self._secret = environment.secret(environ, config.secret_env, f"The secret of {config.url}")
        self._clock = clock

    @property
    def name(self) -> str:
        """What deliveries to it are counted under, without telling the URL."""
        return name_of(self.config)

    def wants(self, _moment: Moment) -> bool:
        """A receiver of events is told of all of them."""
        return True

    async def ask(self, moment: Moment) -> Answer:
        """Call it once. Never raises for a fault of the receiver.

        A receiver answers one `sequence` once, so a gate that is asked again is asked with a larger one.
        """
        sent_at = self._clock()
        body = Message.of(moment, self.config.kind, sent_at).model_dump_json().encode()
        headers = signing.sign(self._secret, int(sent_at.timestamp()), body)
        call = Call(
            self.config.url,
            self.config.timeout,
            body=body,
            headers={**headers, "Content-Type": "application/json"},
        )
        return understood(await post(self._session, call), self.config.kind)

    async def deliver(self, moment: Moment) -> str | None:
        """Tell it; the reason where it was not taken."""
        answer = await self.ask(moment)
        return None if answer.verdict is Verdict.PASS else answer.reason


def name_of(config: Webhook) -> str:
    """What deliveries to it are counted under, whatever its secret is."""
    return f"webhook-{hashlib.sha256(config.url.encode()).hexdigest()[:16]}"


def understood(reply: Reply | NoReply, kind: WebhookKind) -> Answer:
    """What a receiver of this kind means: 2xx is yes, 4xx but for NOT_SAID is no, all else is nothing."""
    if isinstance(reply, NoReply):
        return inconclusive(reply.reason)
    if 400 <= reply.status < 500 and reply.status not in NOT_SAID:
        return Answer(verdict=Verdict.FAIL, reason=f"it answered {reply.status}: {reply.text(SHOWN)}")
    if not 200 <= reply.status < 300:
        return inconclusive(f"it answered {reply.status}: {reply.text(SHOWN)}")
    if kind is WebhookKind.GATE:
        return _judged(reply)
    return Answer(verdict=Verdict.PASS, reason=f"it answered {reply.status}")


def _judged(reply: Reply) -> Answer:
    """A gate says its verdict: 200 alone may come from anything that listens there."""
    try:
        said = reply.json()
    except ValueError as error:
        return inconclusive(f"its answer gives no verdict: {error}")
    verdict = said.get("verdict") if isinstance(said, dict) else None
    if verdict not in tuple(Verdict):
        return inconclusive(
            f"its answer has no `verdict` that is one of {one_of(Verdict)}: {reply.text(SHOWN)}"
        )
    reason = said.get("reason", "")
    if not isinstance(reason, str):
        return inconclusive(f"the `reason` in its answer is no text: {reply.text(SHOWN)}")
    return Answer(verdict=Verdict(verdict), reason=" ".join(reason.split())[:SHOWN] or "it gave no reason")

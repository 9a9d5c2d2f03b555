"""A message to people on each change of phase, as Slack's incoming webhooks take it; Mattermost's do too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import aiohttp

from cluster.errors import ConfigError
from serve_apps.rollout.outside import environment
from serve_apps.rollout.outside.config import Slack, is_http_url
from serve_apps.rollout.outside.http_call import Call, NoReply, post
from serve_apps.rollout.outside.message import Moment
from serve_apps.rollout.states import percent

SHOWN = 300


class SlackClient:
    """Tells one channel. Raises ConfigError, when made, for a URL that is not there or is none."""

    def __init__(self, config: Slack, session: aiohttp.ClientSession, environ: Mapping[str, str]) -> None:
        self._config = config
        self._session = session
        self._url = environment.secret(environ, config.url_env, "The URL of the Slack webhook").strip()
        if not is_http_url(self._url):
            raise ConfigError(
                f"The variable {config.url_env} holds no http or https URL.",
                code="rollout.slack_url",
                hint="Set it to the whole URL that Slack shows for the incoming webhook.",
            )

    @property
    def name(self) -> str:
        """What deliveries to it are counted under, without telling the URL."""
        return name_of(self._config)

    def wants(self, moment: Moment) -> bool:
        """People are told of changes of phase alone."""
        return moment.phase != moment.phase_before

    async def deliver(self, moment: Moment) -> str | None:
        """Tell it; the reason where it was not taken."""
        call = Call(
            self._url,
            self._config.timeout,
            body=json.dumps({"text": text(moment)}).encode(),
            headers={"Content-Type": "application/json"},
        )
        reply = await post(self._session, call)
        if isinstance(reply, NoReply):
            return reply.reason
        if 200 <= reply.status < 300:
            return None
        return f"it answered {reply.status}: {reply.text(SHOWN)}"


def name_of(config: Slack) -> str:
    """What deliveries to it are counted under; another URL in the same variable goes on where that was."""
    return f"slack-{hashlib.sha256(config.url_env.encode()).hexdigest()[:16]}"


def text(moment: Moment) -> str:
    """The message: phases and weights before and after, then what happened.

    Escaped as Slack asks for it, so that no name or answer becomes a link or a mention.
    """
    weights = [weight for weight in (moment.weight_before, moment.weight) if weight is not None]
    said = (
        f"{moment.model}: rollout {moment.rollout} of {moment.candidate} is {moment.phase}"
        f"{f', was {moment.phase_before}' if moment.phase_before else ''}"
        f" (step {moment.step}, weight {' to '.join(map(percent, weights))}). {moment.event}"
    )
    return said.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

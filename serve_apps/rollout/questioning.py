"""How each kind of outsider is asked, again and again, for one rollout."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp

from serve_apps.rollout.followed import Followed
from serve_apps.rollout.gate_spec import Gate
from serve_apps.rollout.looks import Told
from serve_apps.rollout.moments import moment_of
from serve_apps.rollout.outside.config import Webhook, WebhookKind
from serve_apps.rollout.outside.prometheus import PrometheusClient
from serve_apps.rollout.outside.quality.ask import EndpointClient
from serve_apps.rollout.outside.quality.held_out import HeldOut, read_held_out
from serve_apps.rollout.outside.quality.judge import JudgeClient
from serve_apps.rollout.outside.quality.scores import PairedScores
from serve_apps.rollout.outside.quality.scoring import score_round
from serve_apps.rollout.outside.verdict import Answer
from serve_apps.rollout.outside.webhooks import WebhookClient

ASK_EACH_S = 5.0
"""How often Prometheus and webhooks are asked."""


@dataclass(frozen=True, slots=True)
class Questioner:
    """`url` is the endpoint's; `given_up` asks Serve. What it does goes on until it is cancelled.

    Raises ConfigError for a secret that is not there, and what storage raises.
    """

    url: str
    session: aiohttp.ClientSession
    environ: Mapping[str, str]
    given_up: Callable[[str, str], str]

    async def start(self, followed: Followed) -> None:
        """Whether Serve still tries to start the candidate, while it does not serve."""
        names = followed.names
        while True:
            serves = followed.facts.signals.serving
            asked = (names.model, names.candidate)
            followed.given_up = "" if serves else await asyncio.to_thread(self.given_up, *asked)
            await asyncio.sleep(ASK_EACH_S)

    async def score(self, followed: Followed, gate: Gate) -> None:
        """A round of a held-out set `every` so often."""
        quality, names = gate.quality(), followed.names
        endpoint = EndpointClient(self.url, names.model, quality, self.session, self.environ)
        judge = JudgeClient(quality.judge, self.session, self.environ) if quality.judge else None
        held_out = await asyncio.to_thread(read_held_out, quality)
        clock = asyncio.get_running_loop().time
        while True:
            facts, began = followed.facts, clock()
            if not facts.signals.serving:
                await asyncio.sleep(1)
                continue
            round_ = facts.progress.rounds.get(gate.name, 0)
            scores = await score_round(quality, held_out, round_, names, endpoint=endpoint, judge=judge)
            if not scores.n:
                why = "; ".join(f"{count} times: {reason}" for reason, count in scores.missing.items())
                followed.cannot_ask(gate, f"no question was answered by either: {why}")
                await asyncio.sleep(ASK_EACH_S)
                continue
            followed.hear(gate, Told(differences=_new(scores, held_out, round_, gate), round=round_))
            await asyncio.sleep(max(0.0, began + gate.every.total_seconds() - clock()))

    async def query(self, followed: Followed, gate: Gate) -> None:
        """Prometheus."""
        client = PrometheusClient(gate.query(), self.session, self.environ)
        while True:
            answer = await client.read(followed.names)
            followed.replace(gate, Told(answer=Answer(verdict=answer.verdict, reason=answer.reason)))
            await asyncio.sleep(ASK_EACH_S)

    async def ask(self, followed: Followed, gate: Gate, hook: Webhook) -> None:
        """A webhook that judges."""
        client = WebhookClient(hook, self.session, self.environ)
        while True:
            followed.replace(gate, Told(answer=await client.ask(moment_of(followed.facts))))
            await asyncio.sleep(ASK_EACH_S)

    async def confirm(self, followed: Followed, hook: Webhook) -> None:
        """A webhook that agrees to the start, or to each step."""
        client = WebhookClient(hook, self.session, self.environ)
        while True:
            facts = followed.facts
            if (facts.state.step < 0) == (hook.kind is WebhookKind.CONFIRM_START):
                followed.agree(hook, facts.state.step, await client.ask(moment_of(facts)))
            await asyncio.sleep(ASK_EACH_S)


def _new(scores: PairedScores, held_out: HeldOut, round_: int, gate: Gate) -> tuple[tuple[float, int], ...]:
    """The differences of questions that no earlier round has asked: the others show nothing new."""
    part = held_out.part(round_, gate.sample, gate.seed)
    fresh = {question.index for question in part.questions[: len(part.questions) - part.repeated]}
    found = Counter(
        difference
        for difference, index in zip(scores.differences, scores.indices, strict=True)
        if index in fresh
    )
    return tuple(sorted(found.items()))

"""Requests that count for a judged rollout: watched while they are answered, told of when they are over."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cluster.judging import Judging
from cluster.traffic import TrafficPolicy
from serve_apps.gateway import tokens
from serve_apps.gateway.answer_signs import AnswerSigns
from serve_apps.gateway.answer_text import AnswerText
from serve_apps.gateway.asgi import RawHeaders
from serve_apps.gateway.fresh_replicas import FreshOf, counted_as, none_fresh
from serve_apps.gateway.observation import Notes, Observation
from serve_apps.gateway.plan import Plan
from serve_apps.gateway.routes import CONTINUED, GENERATING
from serve_apps.gateway.shadow import Copy, Shadower
from serve_apps.gateway.tally import Finished, LookedAt, NotLookedAt, Pair, Seen
from serve_apps.gateway.text_checks import LIMIT, check
from serve_apps.gateway.text_thread import TextThread
from serve_apps.gateway.wanted_form import wants_json

COUNTED = (*GENERATING, "/v1/embeddings")
"""Routes that ask the model; the others ask its tokenizer."""

_HTTP_OK = 200
_LOGPROBS = b'"logprobs"'


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as its caller sent it, with the plan that was made of it."""

    plan: Plan
    route: str
    headers: RawHeaders
    request_id: bytes


@dataclass(frozen=True, slots=True)
class Watch:
    """One request under way, to be counted under a name, which is that of its version or `fresh:VERSION`.

    `text` collects its answer's, where that is looked at or compared.
    """

    asked: Asked
    notes: Notes
    counted_as: str
    policy: TrafficPolicy
    judging: Judging
    signs: AnswerSigns
    text: AnswerText | None
    looked_at: bool
    shadowed: bool


class JudgedTraffic:
    """Lives in one event loop. `dice` gives numbers from 0 to 1, `clock` seconds."""

    def __init__(
        self,
        saw: Callable[[TrafficPolicy, Seen], None],
        texts: TextThread,
        shadower: Shadower,
        *,
        fresh: FreshOf = none_fresh,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._saw = saw
        self._texts = texts
        self._shadower = shadower
        self._fresh = fresh
        self._clock = clock
        self._dice = dice
        self._next_look: dict[tuple[str, str], float] = {}

    def begin(self, asked: Asked, notes: Notes) -> Watch | None:
        """Watch the answer of a request, if it counts. What becomes of it must not depend on the answer."""
        policy = asked.plan.choice.judged_by
        if policy is None or policy.judging is None or asked.route not in COUNTED:
            return None
        judging, choice = policy.judging, asked.plan.choice
        name = counted_as(choice, policy, self._fresh(choice.model, choice.version))
        shadowed = self._is_shadowed(asked, policy, judging)
        looked_at = asked.route in GENERATING and self._is_looked_at(choice.model, name, judging)
        watch = Watch(
            asked=asked,
            notes=notes,
            counted_as=name,
            policy=policy,
            judging=judging,
            signs=AnswerSigns(logprobs=_LOGPROBS in asked.plan.body),
            text=AnswerText(LIMIT) if looked_at or shadowed else None,
            looked_at=looked_at,
            shadowed=shadowed,
        )
        notes.listen(watch.signs)
        if watch.text is not None:
            notes.listen(watch.text)
        return watch

    def finish(self, watch: Watch, row: Observation) -> None:
        """The request is over."""
        signs, body = watch.signs, watch.asked.plan.body
        caller = watch.asked.plan.choice.caller
        finished = Finished(
            row=row,
            counted_as=watch.counted_as,
            prompt_tokens=tokens.of_prompt(body),
            spoke=signs.spoke,
            mean_logprob=signs.mean_logprob(),
            new_replica=watch.notes.new_replica,
            caller=caller,
        )
        self._saw(watch.policy, finished)
        if watch.text is None or row.status != _HTTP_OK or row.error_code:
            return
        text = next(iter(watch.text.texts()), "")
        # A tool that is called needs no text.
        if watch.looked_at and (text or not signs.spoke):
            self._look_at(watch, text)
        if watch.shadowed:
            self._shadow(watch, text)

    async def stop(self) -> None:
        """Send no more copies; texts that wait are still looked at."""
        await self._shadower.stop()
        await asyncio.to_thread(self._texts.stop)

    def _is_looked_at(self, model: str, name: str, judging: Judging) -> bool:
        """The first that comes in each tick of those that are counted together."""
        place, now = (model, name), self._clock()
        if now < self._next_look.get(place, now):
            return False
        self._next_look[place] = now + 1 / judging.texts.per_second
        return True

    def _is_shadowed(self, asked: Asked, policy: TrafficPolicy, judging: Judging) -> bool:
        shadow = judging.shadow
        return (
            shadow is not None
            and asked.route in CONTINUED
            and asked.plan.choice.version == policy.stable
            and shadow.is_on(policy.weight)
            and self._dice() < shadow.sample
        )

    def _look_at(self, watch: Watch, text: str) -> None:
        def work() -> None:
            found = check(text, watch.judging.texts, wants_json=wants_json(watch.asked.plan.body))
            self._saw(watch.policy, LookedAt(watch.counted_as, found, watch.asked.plan.choice.caller))

        if not self._texts.offer(work):
            self._saw(watch.policy, NotLookedAt(watch.counted_as))

    def _shadow(self, watch: Watch, text: str) -> None:
        asked = watch.asked
        copy = Copy(
            policy=watch.policy,
            candidate=watch.policy.candidate or "",
            route=asked.route,
            headers=asked.headers,
            request_id=asked.request_id,
            body=asked.plan.body,
            compare=partial(self._compare, watch, text),
        )
        self._shadower.offer(copy)

    def _compare(self, watch: Watch, stable: str, candidate: str) -> None:
        def work() -> None:
            json = wants_json(watch.asked.plan.body)
            checks = watch.judging.texts
            pair = Pair(check(stable, checks, wants_json=json), check(candidate, checks, wants_json=json))
            self._saw(watch.policy, pair)

        self._texts.offer(work)

"""One rollout that outsiders are asked for: what they have said since the last look."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Mapping

from serve_apps.rollout.gate_spec import Gate
from serve_apps.rollout.looks import Told
from serve_apps.rollout.outside.config import Webhook, WebhookKind
from serve_apps.rollout.outside.placeholders import Names
from serve_apps.rollout.outside.verdict import Answer, Verdict, inconclusive
from serve_apps.rollout.reading import Facts


class Followed:
    """What is heard in one thread and looked at in another. `facts` are those of the newest look.

    `given_up`: why Serve does not try to start the candidate any more; empty while it does.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.given_up = ""
        self.names = Names(facts.model, facts.state.candidate, facts.state.stable)
        self.tasks: list[asyncio.Task[None]] = []
        self._lock = threading.Lock()
        self._told: defaultdict[str, list[Told]] = defaultdict(list)
        self._confirmed: dict[str, tuple[int, Answer]] = {}

    def hear(self, gate: Gate, told: Told) -> None:
        """A round of a held-out set, each of which counts."""
        with self._lock:
            self._told[gate.name].append(told)

    def replace(self, gate: Gate, told: Told) -> None:
        """The newest word counts: what was said before, but for rounds, is out of date."""
        with self._lock:
            rounds = [one for one in self._told[gate.name] if one.round is not None]
            self._told[gate.name][:] = [*rounds, told]

    def agree(self, hook: Webhook, step: int, answer: Answer) -> None:
        """What a webhook says of the step after this one."""
        with self._lock:
            self._confirmed[hook.url] = step, answer

    def cannot_ask(self, gate: Gate, why: str) -> None:
        """A gate stays inconclusive, with the reason."""
        self.replace(gate, Told(missing=why) if gate.data is not None else Told(answer=inconclusive(why)))

    def cannot_confirm(self, hook: Webhook, why: str) -> None:
        """A webhook has not agreed, with the reason."""
        self.agree(hook, self.facts.state.step, inconclusive(why))

    def told(self) -> dict[str, Told]:
        """The oldest thing of each gate that no look has stored."""
        with self._lock:
            return {name: heard[0] for name, heard in self._told.items() if heard}

    def taken(self, told: Mapping[str, Told]) -> None:
        """A look has stored it."""
        with self._lock:
            for name, one in told.items():
                # A newer word may have taken its place by now.
                self._told[name][:] = [other for other in self._told[name] if other is not one]

    def confirmation(self, facts: Facts) -> tuple[bool, str]:
        """Whether all agree to the next step, and who does not yet."""
        kind = WebhookKind.CONFIRM_START if facts.state.step < 0 else WebhookKind.CONFIRM_STEP
        with self._lock:
            heard = dict(self._confirmed)
        silent = -2, inconclusive("it has not answered yet")
        for hook in facts.spec.webhooks:
            if hook.kind is not kind:
                continue
            step, answer = heard.get(hook.url, silent)
            if step != facts.state.step or answer.verdict is not Verdict.PASS:
                return False, f"{hook.url} does not agree: {answer.reason}"
        return True, ""

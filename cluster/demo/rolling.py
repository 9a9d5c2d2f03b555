"""Steps of the rollout by hand: a first share, who got it, how good both are, promote, back."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cluster.demo import figures, interruptions
from cluster.demo.client import MODEL, Answer, Question, ask_all
from cluster.demo.figures import Mark
from cluster.demo.state import Demo
from cluster.demo.waiting import until
from cluster.errors import LinnetError
from cluster.traffic import TrafficPolicy, route

WEIGHT = 10
SPLIT_KEYS = 320
# Room for `The text is positive`; a tuned version stops after one word.
_LABEL_TOKENS = 8
SNIPPETS = 200
CONCURRENCY = 8
_CHECK_KEYS = 24
_APPLY_DEADLINE_S = 30.0
_WATCH_S = 4.0
_PROBE_PERIOD_S = 0.05


def start_rollout(demo: Demo) -> None:
    """Give the tuned version a tenth."""
    _move(demo, "start", f"{MODEL}:{demo.tuned}", "--weight", str(WEIGHT))


def observe_split(demo: Demo) -> None:
    """Ask once with each of many fresh keys; who answers must be who the policy says."""
    keys = [secrets.token_hex(8) for _ in range(SPLIT_KEYS)]
    answers = ask(demo, [Question(key, "Hello", max_tokens=1) for key in keys])
    require_answered(answers)
    demo.split = found = figures.split(demo.policy, answers)
    if found.misrouted:
        raise LinnetError(
            f"{found.misrouted} of {found.keys} keys were answered by another version than the policy says.",
            code="demo.misrouted",
        )
    demo.teller.say(
        f"{found.keys} keys: {found.observed:.1%} to {demo.tuned}, expected {found.expected:.1%} "
        f"({found.standard_errors:.2f} standard errors away); each key where the policy puts it"
    )


def measure_accuracy(demo: Demo) -> None:
    """The same held-out snippets to each version, pinned by header."""
    snippets = read_snippets(demo.data / "test.parquet", SNIPPETS)
    demo.snippets = len(snippets)
    labels = [snippet.label for snippet in snippets]
    for version in (demo.base, demo.tuned):
        questions = [
            Question(f"snippet-{number}", asked.text, _LABEL_TOKENS, pin=version, system=asked.system)
            for number, asked in enumerate(snippets)
        ]
        with demo.teller.moving(f"asking {MODEL}:{version} about {len(snippets)} held-out snippets"):
            answers = ask(demo, questions)
        require_answered(answers)
        demo.accuracy[version] = figures.accuracy(answers, labels)
        demo.teller.say(
            f"{MODEL}:{version}: {demo.accuracy[version]:.1%} of {len(snippets)} held-out snippets right"
        )


def promote(demo: Demo) -> None:
    """All traffic to the tuned version."""
    _move(demo, "promote", MODEL)
    require_routed(demo)


def roll_back(demo: Demo) -> None:
    """All traffic back to the base, without loading anything; watched for a while."""
    _move(demo, "rollback", MODEL)
    require_routed(demo)
    time.sleep(_WATCH_S)
    demo.rollback_s = rollback_seconds(demo, until_at=time.time())
    demo.teller.say(
        f"{demo.rollback_s:.2f} s from the command to the first answer of {demo.base}; none of "
        f"{demo.tuned} after it"
    )


def rollback_seconds(demo: Demo, *, until_at: float) -> float:
    """From the rollback's command to the settled state, seen by all who asked before `until_at`."""
    commanded = max(mark.at for mark in demo.marks if mark.name == "rollback")
    return figures.rollback_seconds(demo.answers(), back_to=demo.base, commanded=commanded, until=until_at)


class HeldOut(NamedTuple):
    """A row of the test split: what the model is told, what it is asked, what people say."""

    system: str
    text: str
    label: str


def read_snippets(file: Path, count: int) -> list[HeldOut]:
    """The first `count` rows that leave the labels balanced, in file order."""
    import pyarrow.parquet as pq

    turns = pq.read_table(file, columns=["messages"]).column("messages").to_pylist()
    rows = [HeldOut(*(message["content"] for message in messages)) for messages in turns]
    labels = sorted({row.label for row in rows})
    taken = dict.fromkeys(labels, 0)
    found = []
    for row in rows:
        if taken[row.label] < count // len(labels):
            taken[row.label] += 1
            found.append(row)
    return found


def telling_key(before: TrafficPolicy, after: TrafficPolicy) -> str:
    """A key that the two policies answer differently."""
    keys = (f"probe-{secrets.token_hex(4)}-{number}" for number in itertools.count())
    return next(key for key in keys if route(before, key) != route(after, key))


def _move(demo: Demo, verb: str, *arguments: str) -> None:
    """Run a rollout command and wait until the gateway routes by what it changed."""
    demo.marks.append(Mark(name=verb, at=time.time()))
    detail = demo.commands.linnet("rollout", verb, *arguments, "--yes")["detail"]
    before, demo.policy = demo.policy, figures.policy_of(MODEL, detail)
    key = telling_key(before, demo.policy)
    expected = route(demo.policy, key)

    def applied() -> bool:
        answer = ask(demo, [Question(key, "Hello", max_tokens=1)])[0]
        return answer.version == expected

    until(
        applied,
        f"the gateway routing by revision {demo.policy.revision}",
        deadline_s=_APPLY_DEADLINE_S,
        hint=f"`linnet rollout status {MODEL}` shows the policy.",
        period_s=_PROBE_PERIOD_S,
    )
    shares = ", ".join(f"{version} {share:g}%" for version, share in demo.policy.weights().items())
    demo.teller.say(f"the gateway routes by it after {time.time() - demo.marks[-1].at:.2f} s: {shares}")


def ask(demo: Demo, questions: Sequence[Question]) -> list[Answer]:
    """All of them through the gateway, some at a time; they count as the demo's requests."""
    answers = interruptions.run(ask_all(demo.serve_url, questions, CONCURRENCY))
    demo.measured.extend(answers)
    return answers


def require_routed(demo: Demo) -> None:
    """Raise LinnetError `demo.misrouted` unless fresh keys are answered as the policy says."""
    answers = ask(demo, [Question(secrets.token_hex(8), "Hello", max_tokens=1) for _ in range(_CHECK_KEYS)])
    require_answered(answers)
    wrong = [answer for answer in answers if answer.version != route(demo.policy, answer.question.key)]
    if wrong:
        raise LinnetError(
            f"{len(wrong)} of {len(answers)} fresh keys went to {wrong[0].version}, which has no weight.",
            code="demo.misrouted",
        )


def require_answered(answers: Sequence[Answer]) -> None:
    """Raise LinnetError `demo.requests_failed` unless all were."""
    failed = [answer for answer in answers if answer.error]
    if failed:
        raise LinnetError(
            f"{len(failed)} of {len(answers)} requests failed, the first with: {failed[0].error}.",
            code="demo.requests_failed",
        )

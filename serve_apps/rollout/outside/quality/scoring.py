"""A round of held-out questions: both versions asked in turn, each pair scored, all of it by a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from serve_apps.rollout.outside.config import QualityGate, ScorerName
from serve_apps.rollout.outside.placeholders import Names
from serve_apps.rollout.outside.quality.ask import EndpointClient, Failed, Outcome, Text, Unasked
from serve_apps.rollout.outside.quality.held_out import HeldOut
from serve_apps.rollout.outside.quality.judge import JudgeClient, NoPreference
from serve_apps.rollout.outside.quality.rows import Question
from serve_apps.rollout.outside.quality.scorers import SCORERS
from serve_apps.rollout.outside.quality.scores import MissingPair, Pair, PairedScores, paired


async def score_round(
    gate: QualityGate,
    held_out: HeldOut,
    round_: int,
    names: Names,
    *,
    endpoint: EndpointClient,
    judge: JudgeClient | None,
) -> PairedScores:
    """Ask the questions of a round, counted from 0. Never raises for a fault of endpoint or judge.

    `judge` is needed where a question is scored by it, which `read_held_out` has checked.
    """
    part = held_out.part(round_, gate.sample, gate.seed)
    found = await _Round(gate, names, endpoint, judge).run(part.questions)
    return paired(found, repeated=part.repeated, set_sha256=held_out.sha256)


class _Round:
    def __init__(
        self, gate: QualityGate, names: Names, endpoint: EndpointClient, judge: JudgeClient | None
    ) -> None:
        self._gate = gate
        self._names = names
        self._endpoint = endpoint
        self._judge = judge
        self._outcomes: dict[tuple[int, str], Outcome] = {}
        self._pairs: dict[int, Pair | MissingPair] = {}

    async def run(self, questions: Sequence[Question]) -> list[Pair | MissingPair]:
        """A pair for each question, missing where time ran out."""
        deadline = self._gate.deadline.total_seconds()
        todo = self._in_turn(questions)
        try:
            async with asyncio.timeout(deadline), asyncio.TaskGroup() as workers:
                for _ in range(self._gate.concurrency):
                    workers.create_task(self._work(todo))
        except TimeoutError:
            pass
        late = f"the round was not over within {deadline:g} s"
        return [self._pairs.get(one.index) or MissingPair(one.index, late) for one in questions]

    def _in_turn(self, questions: Sequence[Question]) -> Iterator[tuple[Question, str]]:
        """Each question to both versions, which take turns in being first, so that load favours neither."""
        stable, candidate = self._names.stable, self._names.candidate
        for place, question in enumerate(questions):
            for version in (stable, candidate) if place % 2 == 0 else (candidate, stable):
                yield question, version

    async def _work(self, todo: Iterator[tuple[Question, str]]) -> None:
        for question, version in todo:
            self._outcomes[question.index, version] = await self._endpoint.ask(question, version)
            both = [self._outcomes.get((question.index, name)) for name in self._versions()]
            if both[0] is not None and both[1] is not None:
                self._pairs[question.index] = await self._score(question, both[0], both[1])

    def _versions(self) -> tuple[str, str]:
        return self._names.stable, self._names.candidate

    async def _score(self, question: Question, stable: Outcome, candidate: Outcome) -> Pair | MissingPair:
        match stable, candidate:
            case Text(ours), Text(theirs):
                return await self._compare(question, ours, theirs)
            case Text(ours), Failed():
                return Pair(question.index, self._alone(question, ours), 0.0, unanswered="candidate")
            case Failed(), Text(theirs):
                return Pair(question.index, 0.0, self._alone(question, theirs), unanswered="stable")
        reasons = [one.reason for one in (stable, candidate) if isinstance(one, (Unasked, Failed))]
        return MissingPair(question.index, "; ".join(dict.fromkeys(reasons)))

    def _alone(self, question: Question, text: str) -> float:
        """The score of an answer without another beside it; for a judge any answer is better than none."""
        if question.scorer is ScorerName.JUDGE:
            return 1.0
        return float(SCORERS[question.scorer](text, question.answers))

    async def _compare(self, question: Question, ours: str, theirs: str) -> Pair | MissingPair:
        if question.scorer is not ScorerName.JUDGE:
            return Pair(question.index, self._alone(question, ours), self._alone(question, theirs))
        assert self._judge is not None
        preference = await self._judge.compare(question, ours, theirs)
        if isinstance(preference, NoPreference):
            return MissingPair(question.index, preference.reason)
        half = preference.difference / 2
        return Pair(question.index, 0.5 - half, 0.5 + half, agreed=preference.agreed)

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web

from serve_apps.rollout.outside.config import QualityGate
from serve_apps.rollout.outside.http_call import new_session
from serve_apps.rollout.outside.placeholders import Names
from serve_apps.rollout.outside.quality.ask import EndpointClient
from serve_apps.rollout.outside.quality.held_out import HeldOut
from serve_apps.rollout.outside.quality.judge import JudgeClient
from serve_apps.rollout.outside.quality.rows import read_rows
from serve_apps.rollout.outside.quality.scoring import score_round
from tests.serve_apps.gateway.conftest import database, launch, loop_thread
from tests.serve_apps.rollout.outside.outsiders import outsider

__all__ = ["database", "launch", "loop_thread"]

NAMES = Names("m", "v2", "v1")
JUDGE = {"url": "http://judge.example/v1", "model": "judge-1"}


def make_gate(**given):
    return QualityGate.model_validate({"data": "s.jsonl", "max_drop": "5 points", "timeout": "20s"} | given)


def held_out(gate, rows) -> HeldOut:
    data = b"\n".join(json.dumps(row).encode() for row in rows)
    return HeldOut(read_rows(data, "set", gate.scorer, has_judge=gate.judge is not None), "0" * 64)


def sums(count):
    return [{"prompt": f"{number} + 0?", "answer": str(number)} for number in range(count)]


def asked(body):
    return body["messages"][-1]["content"].split()[0]


def text(content, version):
    return web.json_response(
        {"choices": [{"message": {"content": content}}]}, headers={"x-linnet-version": version}
    )


class Gateway:
    """An endpoint of two versions; `answers[version](number)` is a text, None to fail, or a coroutine.

    `order` is how it was asked, `most` how often at once.
    """

    def __init__(self, stable=str, candidate=str):
        self.answers = {"v1": stable, "v2": candidate}
        self.order = []
        self.now = self.most = 0

    async def __call__(self, request):
        version, number = request.headers["x-linnet-version"], asked(await request.json())
        self.order.append((number, version))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            found = self.answers[version](number)
            if asyncio.iscoroutine(found):
                found = await found
        finally:
            self.now -= 1
        if found is None:
            return web.Response(status=500, text="oops", headers={"x-linnet-version": version})
        return text(found, version)


def score(gateway, rows, round_=0, judge=None, **given):
    gate = make_gate(**given)

    async def scenario():
        async with outsider(gateway) as server:
            endpoint = EndpointClient(server.url, "m", gate, server.session, {})
            found = held_out(gate, rows)
            return await score_round(gate, found, round_, NAMES, endpoint=endpoint, judge=judge)

    return asyncio.run(scenario())


def test_two_that_are_alike_differ_nowhere():
    found = score(Gateway(), sums(20))
    assert (found.n, found.stable_mean, found.candidate_mean) == (20, 1, 1)
    assert found.counts() == {0: 20}
    assert sorted(found.indices) == list(range(20))
    assert (found.missing, found.set_sha256) == ({}, "0" * 64)


def test_each_difference_stands_with_the_question_it_is_of():
    found = score(
        Gateway(
            stable=lambda number: "?" if number == "3" else number,
            candidate=lambda number: "?" if number in ("5", "7") else number,
        ),
        sums(10),
    )
    by_index = dict(zip(found.indices, found.differences, strict=True))
    assert {index: difference for index, difference in by_index.items() if difference} == {3: 1, 5: -1, 7: -1}
    assert found.counts() == {-1: 2, 0: 7, 1: 1}
    assert (found.stable_mean, found.candidate_mean) == (0.9, 0.8)


def test_the_order_is_that_of_asking_however_long_the_answers_take():
    release = asyncio.Event()

    async def first_is_last(number):
        if number == slow:
            await release.wait()
        else:
            done.append(number)
            if len(done) == 5:
                release.set()
        return number

    rows, done = sums(6), []
    order = score(Gateway(), rows, seed=3).indices
    slow = str(order[0])
    assert score(Gateway(candidate=first_is_last), rows, seed=3).indices == order


def test_both_versions_are_asked_in_turn_about_the_same_prompt():
    gateway = Gateway()
    found = score(gateway, sums(6), concurrency=1)
    asked_of = [(str(index), version) for index in found.indices for version in ("v1", "v2")]
    expected = [pair for place in range(6) for pair in asked_of[2 * place :][:2][:: -1 if place % 2 else 1]]
    assert gateway.order == expected


@pytest.mark.parametrize("concurrency", [1, 2, 5])
def test_no_more_is_asked_at_once_than_is_allowed(concurrency):
    async def together(number):
        waiting.append(number)
        if len(waiting) == concurrency:
            release.set()
        await release.wait()
        return number

    waiting, release = [], asyncio.Event()
    gateway = Gateway(together, together)
    assert score(gateway, sums(5), concurrency=concurrency).n == 5
    assert gateway.most == concurrency


def test_a_version_that_fails_where_the_other_answers_has_a_zero():
    found = score(
        Gateway(
            stable=lambda number: None if number in ("1", "2") else number,
            candidate=lambda number: None if number in ("2", "3", "4") else number,
        ),
        sums(6),
    )
    by_index = dict(zip(found.indices, found.differences, strict=True))
    assert by_index == {0: 0, 1: 1, 3: -1, 4: -1, 5: 0}
    assert (found.stable_unanswered, found.candidate_unanswered) == (1, 2)
    assert found.missing == {"status 500: oops": 1}


def test_a_failure_is_no_worse_than_the_wrong_answer_beside_it():
    found = score(Gateway(stable=lambda _: "?", candidate=lambda _: None), sums(3))
    assert found.counts() == {0: 3}
    assert found.candidate_unanswered == 3


def test_what_does_not_reach_the_versions_is_missing():
    async def broken(_request):
        return web.Response(status=502, text="bad gateway")

    found = score(broken, sums(3))
    assert (found.n, found.missing) == (0, {"status 502 of no version: bad gateway": 3})


def test_a_round_ends_by_its_deadline_with_the_pairs_that_it_has():
    async def hangs(_number):
        await asyncio.Event().wait()

    found = score(
        Gateway(candidate=lambda number: hangs(number) if number == "2" else number),
        sums(5),
        concurrency=2,
        timeout="2s",
        deadline="2s",
    )
    assert found.n == 4
    assert found.missing == {"the round was not over within 2 s": 1}


def test_a_version_that_hangs_on_one_prompt_has_a_zero_there_alone():
    async def hangs(_number):
        await asyncio.Event().wait()

    found = score(
        Gateway(candidate=lambda number: hangs(number) if number == "2" else number),
        sums(5),
        timeout="1s",
        deadline="20s",
    )
    assert found.counts() == {-1: 1, 0: 4}
    assert found.candidate_unanswered == 1


def test_rounds_ask_the_next_part_and_say_when_they_repeat():
    rounds = [score(Gateway(), sums(5), round_, sample=2) for round_ in range(3)]
    assert [found.repeated for found in rounds] == [0, 0, 1]
    assert len({index for found in rounds for index in found.indices}) == 5


def test_rows_are_scored_each_in_their_way():
    rows = [
        {"prompt": "a", "answer": "Yes"},
        {"prompt": "b", "answer": "yes", "scorer": "contains"},
        {"prompt": "c", "answer": "yes", "scorer": "choice"},
        {"prompt": "d", "scorer": "json_valid"},
    ]
    found = score(Gateway(lambda _: "Yes, it is", lambda _: "{}"), rows)
    assert dict(zip(found.indices, found.differences, strict=True)) == {0: 0, 1: -1, 2: -1, 3: 1}


class Judging:
    """A judge that likes one version's text, in both orders."""

    def __init__(self, liked):
        self.liked = liked

    async def __call__(self, request):
        shown = json.loads((await request.json())["messages"][1]["content"])
        if self.liked is None:
            return web.Response(status=500, text="asleep")
        best = "A" if self.liked in shown["A"] else "B"
        return web.json_response({"choices": [{"message": {"content": f"[[{best}]]"}}]})


def judged(liked, stable, candidate, count=3):
    gate = make_gate(scorer="judge", judge=JUDGE)

    async def scenario():
        async with outsider(Judging(liked)) as judge, outsider(Gateway(stable, candidate)) as server:
            asked_of = gate.judge.model_copy(update={"url": f"{judge.url}/v1"})
            return await score_round(
                gate,
                held_out(gate, sums(count)),
                0,
                NAMES,
                endpoint=EndpointClient(server.url, "m", gate, server.session, {}),
                judge=JudgeClient(asked_of, judge.session, {}),
            )

    return asyncio.run(scenario())


def test_a_judges_preferences_are_differences_of_whole_answers():
    found = judged("new", stable=lambda n: f"old {n}", candidate=lambda n: f"new {n}")
    assert found.counts() == {1: 3}
    assert (found.stable_mean, found.candidate_mean) == (0, 1)


def test_for_a_judge_any_answer_is_better_than_none_and_the_same_answer_is_a_tie():
    found = judged("x", stable=str, candidate=lambda number: None if number == "1" else number)
    assert dict(zip(found.indices, found.differences, strict=True)) == {0: 0, 1: -1, 2: 0}
    assert (found.stable_mean, found.candidate_mean) == (2 / 3, 1 / 3)


def test_a_judge_that_fails_leaves_pairs_missing():
    found = judged(None, stable=lambda _: "old", candidate=lambda _: "new")
    assert (found.n, found.missing) == (0, {"the judge answered 500: asleep": 3})


def test_through_a_real_gateway_a_worse_version_scores_lower(launch):
    def knows(up_to):
        async def answer(_request, body):
            number = asked(body)
            return web.json_response(
                {"choices": [{"message": {"content": number if int(number) < up_to else "?"}}]}
            )

        return answer

    stack = launch()
    stack.engine("v1", knows(20))
    stack.engine("v2", knows(15))
    stack.policy("v1", candidate="v2", weight=5)
    gate = make_gate()

    async def scenario():
        async with new_session() as session:
            endpoint = EndpointClient(stack.url, "m", gate, session, {})
            return await score_round(gate, held_out(gate, sums(20)), 0, NAMES, endpoint=endpoint, judge=None)

    found = asyncio.run(scenario())
    assert found.counts() == {-1: 5, 0: 15}
    assert (found.stable_mean, found.candidate_mean) == (1, 0.75)

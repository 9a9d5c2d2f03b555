"""Which requests are watched, whose texts are looked at, and which are copied: decided at the start."""

from __future__ import annotations

import pytest

from cluster.judging import Judging, Shadow, ShadowWhen, TextChecks
from cluster.traffic import TrafficPolicy
from serve_apps.gateway.judged import Asked, JudgedTraffic
from serve_apps.gateway.observation import Notes
from serve_apps.gateway.plan import Plan
from serve_apps.gateway.selection import Choice
from serve_apps.gateway.tally import Finished, LookedAt, NotLookedAt
from tests.serve_apps.gateway.servers import Clock

CHAT = "/v1/chat/completions"
BODY = b'{"model": "m"}'


class Texts:
    """A thread that does its work at once, or has no room."""

    full = False

    def offer(self, work):
        if not self.full:
            work()
        return not self.full


class Shadower:
    def __init__(self):
        self.copies = []

    def offer(self, copy):
        self.copies.append(copy)


class Traffic:
    """JudgedTraffic between fakes; `seen` is what was counted."""

    def __init__(self, dice=0.0, **judging):
        self.policy = TrafficPolicy(
            model="m", revision=3, stable="v1", candidate="v2", judging=Judging(rollout=1, **judging)
        )
        self.clock, self.texts, self.shadower, self.seen = Clock(), Texts(), Shadower(), []
        self.judged = JudgedTraffic(self._saw, self.texts, self.shadower, clock=self.clock, dice=lambda: dice)

    def _saw(self, policy, seen):
        assert policy is self.policy
        self.seen.append(seen)

    def begin(self, version="v1", *, route=CHAT, counts=True, body=BODY):
        notes = Notes([], b"id", route)
        choice = Choice("m", version, self.policy if counts else None, b"ada")
        return self.judged.begin(Asked(Plan(choice, body), route, [], b"id"), notes), notes

    def answer(self, text=b'"Hi."', status=200, **asked):
        watch, notes = self.begin(**asked)
        notes.answered(b'{"choices": [{"message": {"content": %b}}]}' % text)
        self.judged.finish(watch, notes.finish("m", watch.asked.plan.choice.version, status, 0.5))
        return watch

    def of(self, kind):
        return [seen for seen in self.seen if isinstance(seen, kind)]


def test_only_what_the_split_decided_for_a_judged_rollout_is_watched():
    assert Traffic().begin()[0] is not None
    assert Traffic().begin(counts=False)[0] is None


@pytest.mark.parametrize(
    ("route", "watched", "looked_at"),
    [
        (CHAT, True, True),
        ("/v1/completions", True, True),
        ("/v1/responses", True, True),
        ("/v1/embeddings", True, False),
        ("/tokenize", False, False),
        ("/detokenize", False, False),
    ],
)
def test_routes_that_ask_the_model_count_and_texts_are_of_those_that_generate(route, watched, looked_at):
    watch, _ = Traffic().begin(route=route)
    assert (watch is not None) == watched
    assert (watch is not None and watch.looked_at) == looked_at


def test_texts_are_looked_at_once_in_each_tick_of_their_version():
    traffic = Traffic(texts=TextChecks(per_second=4))
    picked = []
    for tenth in range(11):
        traffic.clock.now = tenth / 10
        picked.append(tuple(traffic.begin(version)[0].looked_at for version in ("v1", "v2")))
    assert [index for index, both in enumerate(picked) if both == (True, True)] == [0, 3, 6, 9]
    assert set(picked) == {(True, True), (False, False)}


@pytest.mark.parametrize(("dice", "copied"), [(0.0, 1), (0.199, 1), (0.2, 0), (0.9, 0)])
def test_a_share_of_stables_requests_is_copied(dice, copied):
    traffic = Traffic(dice, shadow=Shadow(sample=0.2))
    traffic.answer()
    traffic.answer(version="v2")
    traffic.answer(route="/v1/responses")
    assert len(traffic.shadower.copies) == copied


def test_thin_means_that_the_candidate_has_little_traffic():
    thin = Shadow(sample=1, when=ShadowWhen.THIN)
    assert [thin.is_on(weight) for weight in (0, 9.99, 10, 50)] == [True, True, False, False]
    assert Shadow(sample=1, when=ShadowWhen.ALWAYS).is_on(50)


def test_a_text_is_looked_at_and_one_for_which_there_is_no_room_is_told():
    traffic = Traffic()
    traffic.answer()
    traffic.clock.now, traffic.texts.full = 1, True
    traffic.answer()
    assert traffic.of(LookedAt) == [LookedAt("v1", {"refusal": False, "repetition": False}, b"ada")]
    assert traffic.of(NotLookedAt) == [NotLookedAt("v1")]
    assert len(traffic.of(Finished)) == 2


def test_a_failed_answer_and_a_tool_that_is_called_have_no_text():
    traffic = Traffic(shadow=Shadow(sample=1))
    assert traffic.answer(status=500).looked_at
    traffic.clock.now = 1
    assert traffic.answer(b'null, "tool_calls": [{"id": "a"}]').looked_at
    assert traffic.of(LookedAt) == []
    traffic.clock.now = 2
    traffic.answer(b'""')
    assert len(traffic.of(LookedAt)) == 1


def test_the_size_of_a_prompt_goes_by_its_body_and_not_by_the_answer():
    traffic = Traffic()
    watch, notes = traffic.begin(body=b'{"model": "m", "x": "%b"}' % (b"x" * 400))
    notes.answered(b'{"usage": {"prompt_tokens": 5, "completion_tokens": 3}}')
    traffic.judged.finish(watch, notes.finish("m", "v1", 200, 0.5))
    [seen] = traffic.seen[:1]
    assert seen.prompt_tokens == pytest.approx(106, abs=1)
    assert (seen.row.prompt_tokens, seen.spoke, seen.caller) == (5, False, b"ada")
    assert "ada" not in repr(seen)

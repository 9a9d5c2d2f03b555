from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cluster.state import looks
from serve_apps.rollout import questioning, records
from serve_apps.rollout.asking import Asking
from serve_apps.rollout.outside import keeping_on
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Phase, Reason
from tests.serve_apps.rollout.judged_world import QUICK, World
from tests.serve_apps.rollout.outside.outsiders import SECRET
from tests.serve_apps.rollout.world import MODEL, drop_replica
from tests.support.endpoint import wait_for

QUESTIONS = 40


class Receivers(ThreadingHTTPServer):
    """Webhooks by path, and the endpoint whose v2 knows nothing; `says` is what a gate answers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.says = {"verdict": "pass", "reason": "well"}
        self.agrees = 200
        self.endpoint = 200
        self.events: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(20)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        world, headers = self.server, {}
        match self.path:
            case "/gate":
                status, answer = 200, world.says
            case "/agree":
                status, answer = world.agrees, {"said": "no"}
            case "/events":
                world.events.append(body["event"])
                status, answer = 200, {}
            case _:
                version = self.headers["x-linnet-version"]
                text = body["messages"][-1]["content"] if version == "v1" else "?"
                choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                status, answer, headers = world.endpoint, {"choices": [choice]}, {"x-linnet-version": version}
        self.send_response(status)
        for name, value in (headers | {"content-type": "application/json"}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def outside() -> Iterator[Receivers]:
    server = Receivers()
    yield server
    server.close()


@pytest.fixture
def environ() -> dict[str, str]:
    return dict(SECRET)


@pytest.fixture
def ask(store, outside, environ, monkeypatch) -> Iterator[Asking]:
    monkeypatch.setattr(questioning, "ASK_EACH_S", 0.05)
    monkeypatch.setattr(keeping_on, "AGAIN_S", 0.05)
    found = Asking(store.database, outside.url, environ)
    yield found
    found.close()


def spec(**more) -> RolloutSpec:
    return RolloutSpec.model_validate({**QUICK.stored(), **more})


def run_until(judged, controller, rollout, phase):
    def there():
        controller.tick()
        judged.serve()
        return judged.state(rollout).phase is phase

    wait_for(there, str(phase), 60)
    return judged.state(rollout)


def last_look(store, rollout):
    with store.database.snapshot() as session:
        return looks.newest(session, rollout).outcome


def test_a_gate_of_ones_own_holds_until_it_passes_and_takes_back_when_it_fails(store, outside, ask):
    judged = World(store)
    gates = [{"webhook": {"url": f"{outside.url}/gate"}}]
    first = judged.begin(spec(gates=gates)).rollout_id
    controller = judged.controller(outside=ask)
    assert run_until(judged, controller, first, Phase.PROMOTED).reason is Reason.PROMOTED
    outside.says = {"verdict": "fail", "reason": "the till does not balance"}
    second = judged.begin(spec(gates=gates, candidate="v3")).rollout_id
    assert run_until(judged, controller, second, Phase.ROLLED_BACK).reason is Reason.GATE_FAILED
    assert "the till does not balance" in last_look(store, second)["conclusion"]["why"]


def test_nothing_begins_before_everybody_agrees(store, outside, ask):
    judged, outside.agrees = World(store), 403
    hooks = [{"url": f"{outside.url}/agree", "kind": "confirm-start"}]
    rollout = judged.begin(spec(webhooks=hooks)).rollout_id
    controller = judged.controller(outside=ask)

    def refused():
        controller.tick()
        judged.clock.pass_(40)
        return "does not agree: it answered 403" in last_look(store, rollout)["conclusion"]["why"]

    wait_for(refused, "a refusal", 30)
    assert judged.state(rollout).phase is Phase.PENDING
    outside.agrees = 200
    run_until(judged, controller, rollout, Phase.PROMOTED)


def test_a_candidate_that_serve_does_not_start_any_more_is_taken_back_at_once(store, outside, environ):
    drop_replica(store, "v2")
    judged, tried = World(store), []

    def given_up(model, version):
        tried.append((model, version))
        return "three starts failed"

    rollout = judged.begin().rollout_id
    asking = Asking(store.database, outside.url, environ, given_up)
    assert run_until(judged, judged.controller(outside=asking), rollout, Phase.ROLLED_BACK).weight == 0
    asking.close()
    assert "three starts failed" in last_look(store, rollout)["conclusion"]["why"]
    assert set(tried) == {(MODEL, "v2")}


def test_events_are_told_in_order_and_with_both_numbers(store, outside, ask):
    judged = World(store)
    hooks = [{"url": f"{outside.url}/events", "kind": "event"}]
    rollout = judged.begin(spec(webhooks=hooks)).rollout_id
    controller = judged.controller(outside=ask)
    run_until(judged, controller, rollout, Phase.PROMOTED)
    controller.tick()
    wait_for(lambda: len(outside.events) == 5, "five events", 30)
    assert "weight of v2 from 0% to 5%" in outside.events[1]
    assert "promoted, from 100% to 100%" in outside.events[-1]


def test_a_candidate_that_knows_less_is_taken_back_by_the_held_out_set(store, outside, ask, tmp_path):
    file = tmp_path / "set.jsonl"
    rows = [{"prompt": f"say {number}", "answer": f"say {number}"} for number in range(QUESTIONS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = World(store)
    gate = {"metric": "quality", "data": str(file), "max_drop": "5 points", "min_samples": 10}
    rollout = judged.begin(spec(gates=[gate])).rollout_id
    controller = judged.controller(outside=ask)
    assert run_until(judged, controller, rollout, Phase.ROLLED_BACK).reason is Reason.GATE_FAILED
    conclusion = last_look(store, rollout)["conclusion"]
    assert conclusion["gate"] == "quality max_drop"
    with store.database.snapshot() as session:
        told = [row.inputs["told"] for row in looks.of_rollout(session, rollout) if row.inputs["told"]]
    [only] = told
    assert only["quality max_drop"]["differences"] == [[-1.0, QUESTIONS]]
    assert only["quality max_drop"]["round"] == 0


def test_a_held_out_set_that_nobody_answers_says_so_and_is_asked_again(store, outside, ask, tmp_path):
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps({"prompt": "say 1", "answer": "say 1"}) + "\n")
    judged, outside.endpoint = World(store), 400
    gate = {"metric": "quality", "data": str(file), "max_drop": "5 points", "min_samples": 1}
    rollout = judged.begin(spec(gates=[gate])).rollout_id
    controller = judged.controller(outside=ask)

    def is_said():
        controller.tick()
        judged.serve()
        return "no question was answered by either" in last_look(store, rollout)["conclusion"]["why"]

    wait_for(is_said, "why nothing is known", 30)
    outside.endpoint = 200

    def is_known():
        controller.tick()
        judged.serve()
        return last_look(store, rollout)["findings"]["quality max_drop"]["samples"] == 1

    wait_for(is_known, "an answer", 30)


def test_a_set_that_storage_does_not_give_says_so_and_is_read_again(store, outside, ask, tmp_path):
    file = tmp_path / "set.jsonl"
    judged = World(store)
    gate = {"metric": "quality", "data": str(file), "max_drop": "5 points", "min_samples": 10}
    rollout = judged.begin(spec(gates=[gate])).rollout_id
    controller = judged.controller(outside=ask)

    def is_said():
        controller.tick()
        judged.serve()
        return "set.jsonl" in last_look(store, rollout)["conclusion"]["why"]

    wait_for(is_said, "why nothing is known", 30)
    rows = [{"prompt": f"say {number}", "answer": f"say {number}"} for number in range(QUESTIONS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_until(judged, controller, rollout, Phase.ROLLED_BACK).reason is Reason.GATE_FAILED


def history(store, model=MODEL):
    with store.database.snapshot() as session:
        return [row.sentence for row in records.events_of(session, model, 100)]


def test_secrets_that_are_missing_are_told_stop_none_of_the_others_and_are_looked_for_again(
    store, outside, ask, environ
):
    gates = [
        {"webhook": {"url": f"{outside.url}/gate", "secret_env": "GATE_SECRET"}},
        {
            "prometheus": {"url": outside.url, "query": "up", "token_env": "TOKEN"},
            "min": 0,
            "severity": "info",
        },
    ]
    hooks = [
        {"url": f"{outside.url}/agree", "kind": "confirm-start", "secret_env": "AGREE_SECRET"},
        {"url": f"{outside.url}/never", "kind": "event", "secret_env": "NEVER_SECRET"},
        {"url": f"{outside.url}/events", "kind": "event"},
    ]
    judged = World(store)
    rollout = judged.begin(spec(gates=gates, webhooks=hooks, slack={})).rollout_id
    controller = judged.controller(outside=ask)

    def says(*words):
        controller.tick()
        judged.serve(2)
        why = last_look(store, rollout)["conclusion"]["why"]
        return all(word in why for word in words)

    wait_for(lambda: says("does not agree", "AGREE_SECRET, which is not set"), "who has not agreed", 30)
    wait_for(lambda: len(outside.events) == 1, "the event of the other receiver", 30)
    environ["AGREE_SECRET"] = "hush"
    wait_for(lambda: says("GATE_SECRET, which is not set"), "what the gate lacks", 30)
    noted = [sentence for sentence in history(store) if " cannot be " in sentence]
    for variable in ("AGREE_SECRET", "GATE_SECRET", "TOKEN", "NEVER_SECRET", "LINNET_SLACK_URL"):
        [_] = [sentence for sentence in noted if f"{variable}, which is not set" in sentence]
    environ["GATE_SECRET"] = "hush"
    run_until(judged, controller, rollout, Phase.PROMOTED)

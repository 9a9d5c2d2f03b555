from __future__ import annotations

import asyncio
import socket
import time

from cluster.demo.client import BackgroundClient, Question, ask_all
from tests.cluster.demo.world import SplitGateway


def ask(url: str, *questions: Question) -> list:
    return asyncio.run(ask_all(url, questions, 4))


def test_reads_whole_and_streamed_answers_in_the_order_of_the_questions(gateway: SplitGateway):
    gateway.answers = {"v1": "negative", "v2": "positive"}
    questions = [
        Question(f"k{number}", "Hello", 4, stream=number % 2 == 0, pin="v2" if number > 3 else "")
        for number in range(8)
    ]
    answers = ask(gateway.url, *questions)
    assert [answer.question for answer in answers] == questions
    assert [answer.text for answer in answers] == ["negative"] * 4 + ["positive"] * 4
    assert [answer.version for answer in answers] == ["v1"] * 4 + ["v2"] * 4
    assert not any(answer.error for answer in answers)
    assert all(answer.started <= answer.answered for answer in answers)
    assert {seen["x-linnet-key"] for seen in gateway.seen} == {f"k{number}" for number in range(8)}


def test_a_refusal_a_broken_stream_and_a_nameless_answer_are_failures(gateway: SplitGateway):
    refused, broken, ended, nameless = ask(
        gateway.url,
        Question("k", "fail", 1),
        Question("k", "break", 1, stream=True),
        Question("k", "error", 1, stream=True),
        Question("k", "nameless", 1),
    )
    assert refused.status == 503
    assert "no replica" in refused.error
    assert broken.error == "the stream ended without [DONE]"
    assert broken.text == "Positive."
    assert "replica gone" in ended.error
    assert "names no version" in nameless.error


def test_nobody_listening_is_an_answer_with_an_error():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        answer = ask(url, Question("k", "Hello", 1))[0]
    assert answer.status == 0
    assert "Connect" in answer.error


def test_the_background_client_draws_keys_in_turn_and_stops(gateway: SplitGateway):
    client = BackgroundClient(gateway.url, ["a", "b", "c"], callers=2, pause_s=0.0)
    client.start()
    deadline = time.monotonic() + 20
    while len(client.answers) < 12:
        assert time.monotonic() < deadline
    client.stop()
    count = len(client.answers)
    assert not any(answer.error for answer in client.answers)
    assert {answer.question.key for answer in client.answers} == {"a", "b", "c"}
    assert {answer.question.stream for answer in client.answers} == {True, False}
    assert len(gateway.seen) == count
    client.stop()


def test_a_client_that_waits_for_an_answer_can_be_dropped():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = BackgroundClient(f"http://127.0.0.1:{silent.getsockname()[1]}", ["a"])
        client.start()
        connection, _ = silent.accept()
        began = time.monotonic()
        client.stop(patience_s=0.1)
        connection.close()
    assert time.monotonic() - began < 10
    assert client.answers == []

from __future__ import annotations

from serve_apps.gateway.stream import DONE, Stream
from serve_apps.replay.wire import End, Resume, Told, Way, comment

ONE = b'data: {"created":9,"t":1}\n\n'
TWO = b'data: {"created":9,"t":2}\n\n'


def test_events_go_on_and_tokens_stay():
    stream = Stream()
    assert stream.take(comment(Told(steps=[[4]], way=Way.PREFILL)) + ONE) == ONE
    assert stream.take(comment(Told(steps=[[5, 6]]))) == b""
    assert stream.take(TWO + comment(Told(steps=[[7]], end=End("length")))) == TWO
    assert stream.resume() == Resume(Way.PREFILL, [[4], [5, 6], [7]], 2, 9, End("length"))


def test_a_stream_that_told_nothing_cannot_be_resumed():
    stream = Stream()
    stream.take(ONE)
    assert stream.resume() is None


def test_a_stream_whose_replica_could_not_tell_on_cannot_be_resumed():
    stream = Stream()
    stream.take(comment(Told(steps=[[4]], way=Way.PREFILL)) + ONE)
    stream.take(comment(Told(way=Way.NONE)) + TWO)
    assert stream.resume() is None


def test_a_whole_stream_needs_no_other_replica():
    stream = Stream()
    stream.take(comment(Told(steps=[[4]], way=Way.REPEAT)) + ONE)
    assert not stream.is_done
    stream.take(DONE)
    assert stream.is_done
    assert stream.resume() is None


def test_a_sampled_stream_is_known_as_one():
    stream = Stream()
    stream.take(comment(Told(way=Way.PREFILL, sampled=True)) + ONE)
    assert stream.sampled


def test_tokens_and_the_reason_are_as_told():
    stream = Stream()
    assert stream.told_tokens() is None
    stream.take(comment(Told(steps=[[4]], way=Way.PREFILL)) + ONE)
    stream.take(comment(Told(steps=[[5, 6], [7]], end=End("length"))) + TWO)
    assert (stream.told_tokens(), stream.told_reason()) == (4, "length")
    stream.take(comment(Told(way=Way.NONE)) + TWO)
    assert stream.told_tokens() is None


def test_the_last_events_are_there_without_the_comments():
    stream = Stream()
    for event in (ONE, TWO, TWO, DONE):
        stream.take(comment(Told(steps=[[4]])) + event)
        stream.take(comment(Told(steps=[[5]])))
    assert stream.last_events() == TWO + TWO + DONE

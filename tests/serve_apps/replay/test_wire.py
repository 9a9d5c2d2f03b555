from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.replay.wire import End, Resume, Told, Way, comment, pack, part, unpack

steps = st.lists(st.lists(st.integers(0, 200_000), max_size=4), max_size=5)
ends = st.none() | st.builds(
    End, st.sampled_from(["stop", "length"]), st.none() | st.integers(0, 9) | st.text(max_size=9)
)
tolds = st.builds(Told, steps, st.none() | st.sampled_from(Way), st.booleans(), ends)
events = st.builds(lambda value: b"data: " + json.dumps(value).encode() + b"\n\n", st.text())


@given(st.lists(st.one_of(tolds, events)))
def test_events_and_what_was_told_come_apart_again(items):
    sent = b"".join(comment(item) if isinstance(item, Told) else item for item in items)
    found, told = part(sent)
    assert found == b"".join(item for item in items if isinstance(item, bytes))
    assert told == [item for item in items if isinstance(item, Told)]


def test_an_answer_that_speaks_of_our_comments_is_left_alone():
    event = b'data: {"text": "\\n: linnet {}\\n\\n"}\n\n'
    assert part(event) == (event, [])


def test_comments_of_others_are_left_alone():
    assert part(b": ping\n\ndata: 1\n\n") == (b": ping\n\ndata: 1\n\n", [])


@given(st.builds(Resume, st.sampled_from(Way), steps, st.integers(0, 99), st.none() | st.just(7), ends))
def test_a_resume_comes_out_of_its_body_again(resume):
    body = b'{\n"model": "m"}\n'
    assert unpack(pack(resume, body)) == (resume, body)


def test_another_body_is_no_resume():
    with pytest.raises(msgspec.DecodeError):
        unpack(b'{"model": "m"}')

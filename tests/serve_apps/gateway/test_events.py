from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_apps.gateway.events import EventFramer

pieces = st.lists(st.sampled_from([b"data: x", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b"", b": ping", b"\r"]))


@given(pieces)
def test_bytes_stay_and_only_whole_events_are_passed_on(chunks):
    framer = EventFramer()
    passed = [framer.push(chunk) for chunk in chunks]
    assert b"".join(passed) + framer.rest() == b"".join(chunks)
    assert all(ready.endswith((b"\n\n", b"\r\n\r\n")) for ready in passed if ready)


@given(pieces)
def test_a_finished_event_is_never_held_back(chunks):
    framer = EventFramer()
    for chunk in chunks:
        framer.push(chunk)
    assert b"\n\n" not in framer.rest()
    assert b"\r\n\r\n" not in framer.rest()


def test_a_whole_event_goes_through_as_the_same_object():
    event = b"data: x\n\n"
    assert EventFramer().push(event) is event

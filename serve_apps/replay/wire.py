"""What a replica tells its gateway about a stream, and what another replica is given to go on.

A replica puts a server-sent comment before the events of a stream; the gateway keeps what it
says and passes on the events alone. Comments carry the token ids, because text does not
determine them: the same words can be cut into other tokens, and the model would go on otherwise.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

import msgspec

TELL_HEADER = "x-linnet-tell"
"""On a request: tell the tokens of the answer."""

RESUME_TYPE = "application/vnd.linnet.resume"
"""Content type of a request that goes on with a begun stream: `Resume` as JSON, a newline, the body."""

CONTINUED = ("/v1/chat/completions", "/v1/completions")
"""Routes whose streams are told and continued."""

_COMMENT = re.compile(rb"(?:\A|(?<=\n))(?:: linnet ([^\n]*)\n\n)")
_MARK = b": linnet "


class Way(StrEnum):
    """How a stream is continued elsewhere.

    `PREFILL`: the told tokens become part of the prompt. `REPEAT`: the answer is generated again
    from its beginning and compared with the told tokens. `NONE`: it cannot be continued.
    """

    PREFILL = "prefill"
    REPEAT = "repeat"
    NONE = "none"


class End(msgspec.Struct, frozen=True, array_like=True):
    """Why an answer ended, in vLLM's words."""

    finish_reason: str
    stop_reason: int | str | None = None


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """One comment: the token ids of the engine's outputs since the comment before, output by output.

    The outputs are kept apart because an event is made of one output: cut otherwise, the same
    tokens give other events. `sampled` says that the draws cannot be made again.
    """

    steps: list[list[int]] = []
    way: Way | None = None
    sampled: bool = False
    end: End | None = None


class Resume(msgspec.Struct, frozen=True, omit_defaults=True):
    """A begun stream: all that was told of it, and how much of it the caller has.

    `passed` counts events; `created` is the time in them, in Unix seconds.
    """

    way: Way
    steps: list[list[int]]
    passed: int
    created: int | None = None
    end: End | None = None


_told = msgspec.json.Decoder(Told)
_resume = msgspec.json.Decoder(Resume)


def comment(told: Told) -> bytes:
    """A server-sent comment, which readers of the stream skip."""
    return _MARK + msgspec.json.encode(told) + b"\n\n"


def part(events: bytes) -> tuple[bytes, list[Told]]:
    """Whole events without the comments, and what these told."""
    if _MARK not in events:
        return events, []
    told: list[Told] = []

    def keep(match: re.Match[bytes]) -> bytes:
        told.append(_told.decode(match[1]))
        return b""

    return _COMMENT.sub(keep, events), told


def pack(resume: Resume, body: bytes) -> bytes:
    """The request body that goes on with a stream whose request body was `body`."""
    return msgspec.json.encode(resume) + b"\n" + body


def unpack(packed: bytes) -> tuple[Resume, bytes]:
    """The counterpart of `pack`; raises msgspec.DecodeError for anything else."""
    head, _, body = packed.partition(b"\n")
    return _resume.decode(head), body


def tells(headers: Any) -> bool:
    """Whether a request's raw headers ask for the tokens."""
    name = TELL_HEADER.encode()
    return any(key == name for key, _ in headers)

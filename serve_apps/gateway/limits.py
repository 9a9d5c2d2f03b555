"""What a key has used: token buckets for requests and tokens, and the requests under way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from cluster.keys import Limits
from serve_apps.gateway import openai_errors
from serve_apps.gateway.openai_errors import Refusal

RawHeaders = list[tuple[bytes, bytes]]

_HEADERS = {
    what: tuple(f"x-ratelimit-{name}-{what}".encode() for name in ("limit", "remaining", "reset"))
    for what in ("requests", "tokens")
}
_MINUTE_S = 60.0
_TIMED_OUT = 504
# A request that is under way may end at any time; there is nothing better to tell.
_SLOT_RETRY_S = 1.0


@dataclass(slots=True)
class Bucket:
    """Holds a minute's worth and refills evenly; `level` below zero is a debt.

    Times are passed in, in seconds, and do not go back.
    """

    per_minute: int
    level: float
    at: float

    @classmethod
    def full(cls, per_minute: int, now: float) -> Bucket:
        """A bucket that nothing was taken from."""
        return cls(per_minute, float(per_minute), now)

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` is there, 0 when it is; more than a bucket holds waits for a full one."""
        self._refill(now)
        lacking = min(amount, self.per_minute) - self.level
        return lacking * _MINUTE_S / self.per_minute if lacking > 0 else 0.0

    def take(self, amount: float, now: float) -> None:
        """Take without asking; a negative amount gives back."""
        self._refill(now)
        self.level = min(self.level - amount, float(self.per_minute))

    def headers(self, what: str, now: float) -> RawHeaders:
        """OpenAI's x-ratelimit headers."""
        limit, remaining, reset = _HEADERS[what]
        reset_s = self.wait(self.per_minute, now)
        return [
            (limit, b"%d" % self.per_minute),
            (remaining, b"%d" % max(0, math.floor(self.level))),
            (reset, duration(reset_s).encode()),
        ]

    def _refill(self, now: float) -> None:
        gained = max(0.0, now - self.at) * self.per_minute / _MINUTE_S
        self.level = min(self.level + gained, float(self.per_minute))
        self.at = now


class Meter:
    """The use of one key in this process, against its limits."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._max_concurrent = limits.max_concurrent
        self._under_way = 0
        now = clock()
        self._requests = _bucket(limits.requests_per_minute, now)
        self._tokens = _bucket(limits.tokens_per_minute, now)

    def enter(self) -> Ticket | Refusal:
        """Count a request that begins. While the key owes tokens, or has none left, none begins."""
        if self._max_concurrent is not None and self._under_way >= self._max_concurrent:
            return openai_errors.too_many_at_once(self._max_concurrent, _SLOT_RETRY_S)
        now = self._clock()
        for bucket, what in ((self._requests, "requests"), (self._tokens, "tokens")):
            if bucket is not None and (wait := bucket.wait(1, now)):
                return openai_errors.rate_limited(what, bucket.per_minute, wait)
        if self._requests is not None:
            self._requests.take(1, now)
        self._under_way += 1
        return Ticket(self)

    def leave(self) -> None:
        """The counterpart of `enter`."""
        self._under_way -= 1

    def counts_tokens(self) -> bool:
        """Whether anybody needs to know how many tokens a request takes."""
        return self._tokens is not None

    def reserve(self, tokens: int) -> int | Refusal:
        """Take what a request may need, a full bucket at most; returns how much was taken."""
        if self._tokens is None:
            return 0
        now = self._clock()
        if wait := self._tokens.wait(tokens, now):
            return openai_errors.rate_limited("tokens", self._tokens.per_minute, wait)
        taken = min(tokens, self._tokens.per_minute)
        self._tokens.take(taken, now)
        return taken

    def correct(self, reserved: int, spent: int) -> None:
        """What was spent is known: give back what was reserved beyond it, or take the rest."""
        if self._tokens is not None:
            self._tokens.take(spent - reserved, self._clock())

    def headers(self) -> RawHeaders:
        """What an answer tells of the limits; nothing where there are none."""
        now = self._clock()
        buckets = ((self._requests, "requests"), (self._tokens, "tokens"))
        return [pair for bucket, what in buckets if bucket is not None for pair in bucket.headers(what, now)]


class Ticket:
    """One request of a key, from its headers to its end.

    `measure` tells at the end what was spent.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._reserved = 0
        self._left = False
        self.measure: Callable[[], int] = _nothing

    def reserve(self, estimate: Callable[[], int]) -> Refusal | None:
        """Take the tokens that the request may need; the estimate is made only where it counts."""
        if not self._meter.counts_tokens():
            return None
        taken = self._meter.reserve(estimate())
        if isinstance(taken, Refusal):
            return taken
        self._reserved = taken
        return None

    def begin(self) -> None:
        """A replica is asked: until more is known, all that was reserved counts as spent."""
        reserved = self._reserved
        self.measure = lambda: reserved

    def fail(self, refusal: Refusal) -> None:
        """No answer came. That took no tokens, unless a replica has worked until the time was up."""
        if refusal.status != _TIMED_OUT:
            self.measure = _nothing

    def leave(self) -> None:
        """The request is over; a second call changes nothing."""
        if self._left:
            return
        self._left = True
        self._meter.leave()
        if self._meter.counts_tokens():
            self._meter.correct(self._reserved, self.measure())


def duration(seconds: float) -> str:
    """As OpenAI writes it: `0s`, `250ms`, `12s`, `1m30s`; rounded up."""
    if seconds < 1.0:
        milliseconds = math.ceil(seconds * 1000)
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _nothing() -> int:
    return 0


def _bucket(per_minute: int | None, now: float) -> Bucket | None:
    return None if per_minute is None else Bucket.full(per_minute, now)

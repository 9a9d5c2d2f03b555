"""How messages to webhooks are signed, and how a receiver checks them; the scheme is Stripe's and Slack's.

A receiver must check, before it reads the body:

1. `x-linnet-timestamp` is within five minutes of its own clock, else the message may be a replay.
2. `x-linnet-signature` is `sha256=` and the hex HMAC-SHA256, with the shared secret, of the timestamp, a
   full stop and the body's bytes as they came; compared in constant time.
3. Its `id` is new: a message may come twice, and the second one is to be answered as the first was.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping

from cluster.errors import IntegrityError

SIGNATURE = "x-linnet-signature"
TIMESTAMP = "x-linnet-timestamp"
TOLERANCE_S = 300

_SECONDS = re.compile(r"[0-9]{1,12}")


def sign(secret: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The two headers; `timestamp` in Unix seconds."""
    return {TIMESTAMP: str(timestamp), SIGNATURE: f"sha256={_digest(secret, str(timestamp), body)}"}


def verify(
    secret: str, headers: Mapping[str, str], body: bytes, *, now: float, tolerance_s: float = TOLERANCE_S
) -> None:
    """Raise IntegrityError unless the message is from who holds the secret, and new.

    `headers` by any case, `now` in Unix seconds.
    """
    given = {name.lower(): value for name, value in headers.items()}
    timestamp, signature = given.get(TIMESTAMP, ""), given.get(SIGNATURE, "")
    expected = f"sha256={_digest(secret, timestamp, body)}"
    same = hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))
    if not same or not _SECONDS.fullmatch(timestamp):
        raise IntegrityError(
            f"The message is not signed with the shared secret ({SIGNATURE}).",
            code="webhook.signature",
            hint="Compare the secrets of both sides; sign over the bytes of the body as they came.",
        )
    age_s = now - int(timestamp)
    if abs(age_s) > tolerance_s:
        raise IntegrityError(
            f"The message was signed {age_s:.0f} s ago; accepted are {tolerance_s:.0f} s.",
            code="webhook.stale",
            hint="It is an old message, or the clocks of the two hosts differ.",
        )


def _digest(secret: str, timestamp: str, body: bytes) -> str:
    signed = timestamp.encode("utf-8", "replace") + b"." + body
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()

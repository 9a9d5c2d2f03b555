"""What is known of one stream while a replica answers it: what to tell, and what to go on from."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar

from serve_apps.replay.wire import End, Resume, Told, Way

current: ContextVar[Telling | None] = ContextVar("linnet_telling", default=None)
"""The stream of the request that is being handled, where its caller asked to be told."""


class Telling:
    """Links the engine's outputs of one request to the events that they become.

    `resume` is set where the stream has begun elsewhere. `failed` is the engine's error, after
    which nothing of the answer may be passed on as if it were whole; `gave_up` that what comes
    next is vLLM's own error event, for the caller.
    """

    def __init__(self, resume: Resume | None = None) -> None:
        self.resume = resume
        self.failed: Exception | None = None
        self.gave_up = False
        self._way: Way | None = None
        self._untold: Told | None = None

    def begin(self, way: Way, *, sampled: bool) -> bool:
        """An engine request starts; False where the stream cannot be told, as with a second one."""
        if self._way is not None:
            way = Way.NONE
        if self._way is not way:
            self._untold = Told(way=way, sampled=sampled and way is not Way.NONE)
        self._way = way
        return way is not Way.NONE

    def add(self, token_ids: Sequence[int], end: End | None = None) -> None:
        """One output of the engine."""
        if self._way is Way.NONE:
            return
        before = self._untold or Told()
        self._untold = Told(
            steps=[*before.steps, list(token_ids)], way=before.way, sampled=before.sampled, end=end
        )

    def take(self) -> Told | None:
        """What was not told yet; None when there is nothing."""
        untold, self._untold = self._untold, None
        return untold

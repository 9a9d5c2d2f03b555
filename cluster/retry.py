"""Trying again what storage refused and may take later."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from cluster.errors import StorageError
from cluster.storage import FULL

_LOG = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Retry:
    """What to do when storage fails: pause `first_s`, doubling to `longest_s`, until `deadline_s` is over."""

    first_s: float = 1.0
    longest_s: float = 60.0
    deadline_s: float = 300.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep

    def call(self, act: Callable[[], _Result]) -> _Result:
        """Do `act`, again after each passing StorageError; raises the last one when time is up.

        A full disk does not pass by waiting: it is raised at once, like all that is not retryable.
        """
        began, pause, tries = self.clock(), self.first_s, 1
        while True:
            try:
                return act()
            except StorageError as error:
                if not error.retryable or error.code == FULL:
                    raise
                spent = self.clock() - began
                if spent + pause > self.deadline_s:
                    raise _gave_up(error, tries, spent) from error
                _LOG.warning("%s Trying again in %g s.", error.message, pause)
            self.sleep(pause)
            pause, tries = min(2 * pause, self.longest_s), tries + 1


def _gave_up(error: StorageError, tries: int, spent_s: float) -> StorageError:
    return StorageError(
        f"{error.message} Tried {tries} times in {spent_s:.0f} s.",
        code=error.code,
        hint=error.hint,
        retryable=True,
    )

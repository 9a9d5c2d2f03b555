"""One family of errors, each with a code, a message, a hint and an exit code.

LinnetError                 exit 1   failed
├── UsageError              exit 2   a flag, an argument, a missing confirmation
│   └── ConfigError         exit 2   a YAML key or value
├── NotFoundError           exit 3   a model, version, alias, run or endpoint that is not there
├── GateFailedError         exit 4   a check that must hold before traffic moves
├── TimedOutError           exit 5   a deadline passed
├── InterruptedRunError     exit 130 Ctrl-C
├── ConflictError           exit 1   somebody else changed or holds it
├── IntegrityError          exit 1   bytes that differ from their manifest
├── StorageError            exit 1   a root that cannot be read or written, a full disk
└── EnvironmentSetupError   exit 1   a package, port or program that is missing
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """What the `linnet` command ends with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    GATE_FAILED = 4
    TIMED_OUT = 5
    INTERRUPTED = 130


class LinnetError(Exception):
    """Base of all errors that a user may see; survives pickling, so it can cross Ray.

    `code` is a dotted, stable name (`config.unknown_key`); `hint` says what to do next;
    `retryable` tells a caller that the same call may succeed later.
    """

    default_code: ClassVar[str] = "failed"
    exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str = "",
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint
        self.retryable = retryable

    def __reduce__(self) -> tuple[Any, ...]:
        state = {"code": self.code, "hint": self.hint, "retryable": self.retryable}
        return (_rebuild, (type(self), self.message, state))

    def to_dict(self) -> dict[str, Any]:
        """The `error` object of the `--json` contract."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
        }

    def render(self) -> str:
        """Two lines for a terminal: what happened, and what to do."""
        first = f"error[{self.code}]: {self.message}"
        return f"{first}\nhint: {self.hint}" if self.hint else first


def _rebuild(cls: type[LinnetError], message: str, state: dict[str, Any]) -> LinnetError:
    return cls(message, **state)


class UsageError(LinnetError):
    """The command line cannot be carried out as given."""

    default_code = "usage"
    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """A configuration file or value is not acceptable."""

    default_code = "config.invalid"


class NotFoundError(LinnetError):
    """The thing named does not exist."""

    default_code = "not_found"
    exit_code = ExitCode.NOT_FOUND


class GateFailedError(LinnetError):
    """A check that guards traffic did not hold."""

    default_code = "gate.failed"
    exit_code = ExitCode.GATE_FAILED


class TimedOutError(LinnetError):
    """A deadline passed before the awaited condition held."""

    default_code = "timeout"
    exit_code = ExitCode.TIMED_OUT


class InterruptedRunError(LinnetError):
    """A person stopped the command."""

    default_code = "interrupted"
    exit_code = ExitCode.INTERRUPTED


class ConflictError(LinnetError):
    """The state moved on, or another process holds it."""

    default_code = "conflict"


class IntegrityError(LinnetError):
    """Stored bytes are missing, truncated or changed."""

    default_code = "integrity"


class StorageError(LinnetError):
    """A storage root cannot be read or written."""

    default_code = "storage"


class EnvironmentSetupError(LinnetError):
    """Something this machine needs is missing, taken or of the wrong version."""

    default_code = "environment"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` with a leading space, or an empty string when nothing is near."""
    near = difflib.get_close_matches(word, sorted(set(known)), n=1, cutoff=0.6)
    return f" Did you mean `{near[0]}`?" if near else ""


def one_of(known: Iterable[str]) -> str:
    """`a, b, c` for a message that lists what would be accepted."""
    return ", ".join(sorted(set(known))) or "(none)"

"""Names of unfinished work that say who is at it, so that only abandoned ones are ever cleaned away."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

ABANDONED_AFTER = timedelta(hours=24)
_NAME = re.compile(
    r"^\.(?:staging|removed)-(?P<subject>.*)--(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}$"
)


def staging_name(subject: str) -> str:
    """A fresh hidden name for work on `subject` by this process."""
    return f".staging-{subject}--{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def removed_name(subject: str) -> str:
    """A fresh hidden name that a removed version is renamed to before it is deleted."""
    return f".removed-{subject}--{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def subject_of(name: str) -> str | None:
    """What a staging name is about; None for any other name."""
    match = _NAME.match(name)
    return match["subject"] if match else None


def is_abandoned(name: str, modified: datetime, now: datetime | None = None) -> bool:
    """Whether nobody works below this staging name any more.

    On this machine the process is asked for; on others only age, `ABANDONED_AFTER`, can tell.
    """
    match = _NAME.match(name)
    if match is None:
        return False
    if (now or datetime.now(UTC)) - modified > ABANDONED_AFTER:
        return True
    return match["machine"] == _machine() and not _is_running(int(match["pid"]))


def _machine() -> str:
    # A PID means something only within its own PID namespace, which containers on one host do not share.
    namespace = Path("/proc/self/ns/pid")
    scope = namespace.readlink() if namespace.is_symlink() else ""
    return hashlib.sha256(f"{socket.gethostname()}{scope}".encode()).hexdigest()[:8]


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

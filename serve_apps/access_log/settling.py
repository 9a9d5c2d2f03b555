"""A process that makes Parquet of complete spools and ends; the gateway itself imports no pyarrow.

It reads what it is to do from its first line of input, and ends at once when its input does: then
the gateway is gone. Settling is safe to repeat, so it may end anywhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cluster.config import StrictModel
from cluster.errors import LinnetError, StorageError
from serve_apps import lean_process


class Order(StrictModel):
    """The spools' directory, the storage root, and for how many days rows are kept."""

    directory: Path
    root: str
    keep_days: int


def settle(order: Order) -> None:
    """Settle each spool that no living gateway writes, and remove old days. Raises LinnetError, OSError."""
    from cluster.storage import Storage
    from serve_apps.access_log import files, spool

    storage = Storage(order.root)
    for name, lines in spool.complete(order.directory):
        files.store(storage, name, lines)
    today = datetime.now(UTC).date()
    files.remove_days_before(storage, today - timedelta(days=order.keep_days))


def settle_apart(order: Order) -> None:
    """The same in a process of its own. Raises StorageError with its reason where it could not.

    The order goes by its input, since a root may hold secrets and everybody sees arguments.
    """
    environment = os.environ | {
        # It finds what this process finds, which Ray may have told where to look.
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        # Arrow's own allocator sets memory aside for work that goes on.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
    }
    with subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env=environment,
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a process without pipes")
        # One that ended before it read this tells so by its code.
        with suppress(BrokenPipeError):
            process.stdin.write(order.model_dump_json().encode() + b"\n")
        reason = process.stdout.read().decode() or "its process ended by itself"
    if process.returncode:
        raise StorageError(reason, code="storage.failed", retryable=True)


def main() -> int:
    """Carry out the order on standard input; a reason on standard output is why it could not."""
    # Arrow imports them for values in their form, which are not met here.
    lean_process.leave_out("pandas", "numpy")
    order = Order.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True, name="end-with-input").start()
    try:
        settle(order)
    except (LinnetError, OSError) as error:
        sys.stdout.write(str(error))
        return 1
    return 0


def _end_with_input() -> None:
    # Not through `sys.stdin`, whose lock an interpreter that ends would wait for.
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())

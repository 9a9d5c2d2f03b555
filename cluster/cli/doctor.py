"""`linnet doctor`: a table of checks and mends; exit 1 when one fails."""

from __future__ import annotations

import sys
from collections import Counter

from cluster.cli import output
from cluster.cli.output import JsonFlag
from cluster.config import Settings
from cluster.errors import ExitCode

app = output.new_app("Check this machine and say how to mend what is wrong.", list_verb=None)


@app.command()
def doctor(as_json: JsonFlag = False) -> int:
    """Check Python, packages, cores, memory, disk, ports, storage, state and Ray."""
    from cluster.doctor import Status, examine

    checks = examine(Settings.load())
    rows = [check.model_dump(mode="json") for check in checks]
    output.emit_list(rows, ["name", "status", "found", "mend"], as_json=as_json)
    counts = Counter(check.status for check in checks)
    if not as_json:
        told = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])
        sys.stdout.write(f"\n{told}.\n")
    return int(ExitCode.FAILED if counts[Status.FAIL] else ExitCode.DONE)

"""A process that does without what others would import for it: modules that are then not to be found."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder

HOOK = "serve_apps.lean_process.start"
"""Named in the runtime environment of a gateway, for Ray to call before anything else there."""


class _Absent(MetaPathFinder):
    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, _path: Sequence[str] | None, _target: object = None) -> None:
        """Raises ModuleNotFoundError for an absent one, and leaves all others to the next finder."""
        if fullname in self._names:
            raise ModuleNotFoundError(f"No module named '{fullname}' (left out)", name=fullname)


def leave_out(*names: str) -> None:
    """From here on these top-level modules, which must not be imported yet, are as if not installed."""
    sys.meta_path.insert(0, _Absent(frozenset(names)))


def start() -> None:
    """Ray's hook in a gateway's process.

    Ray and Ray Serve import both wherever they are installed, for values that a gateway never sees, and
    go on where they are missing.
    """
    leave_out("pandas", "pyarrow")

"""Finding what other rooms provide, by entry point: the control plane imports none of them."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution
from typing import Any

from cluster.errors import EnvironmentSetupError

NOUNS = "linnet.nouns"
PROVIDERS = "linnet.providers"


@lru_cache(maxsize=1)
def _entry_points() -> tuple[EntryPoint, ...]:
    try:
        return tuple(distribution("linnet").entry_points)
    except PackageNotFoundError:
        raise EnvironmentSetupError(
            "The distribution `linnet` is not installed for this Python.",
            code="environment.not_installed",
            hint="Run `make` targets, or `pip install -e '.[cpu,dev]'`, and use that environment.",
        ) from None


def names(group: str) -> list[str]:
    """Names registered in a group."""
    return sorted(entry.name for entry in _entry_points() if entry.group == group)


def load(group: str, name: str) -> Any:
    """Import and return what `name` stands for in `group`.

    Raises EnvironmentSetupError when a package that it needs is not installed.
    """
    for entry in _entry_points():
        if entry.group == group and entry.name == name:
            try:
                return entry.load()
            except ModuleNotFoundError as error:
                raise EnvironmentSetupError(
                    f"`{name}` needs the package `{error.name}`, which is not installed.",
                    code="environment.missing_package",
                    hint="Install the extra for this machine: pip install 'linnet[cpu]' or 'linnet[gpu]'.",
                ) from error
    raise EnvironmentSetupError(f"Nothing provides `{name}` in `{group}`.", code="environment.no_provider")

"""Finding the error of ours inside what Ray wraps around it."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.errors import LinnetError


def unwrap(error: BaseException) -> LinnetError | None:
    """The first LinnetError among an exception, its causes and Ray Train's failures by worker."""
    return next((found for found in _chain(error, set()) if isinstance(found, LinnetError)), None)


def brief(error: BaseException) -> str:
    """The last line that says something, for an error that is not ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"


def _chain(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    # Ray makes a wrapper that is an instance of the cause's class but lacks its attributes.
    for name in ("cause", "_base_exc", "controller_failure"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException):
            yield from _chain(inner, seen)
    for inner in (getattr(error, "worker_failures", None) or {}).values():
        yield from _chain(inner, seen)
    yield error
    yield from _chain(error.__cause__, seen)

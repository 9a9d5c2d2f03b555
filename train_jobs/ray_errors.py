"""Finding the error of ours inside what Ray wraps around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cluster.errors import LinnetError

_MOST_CHARACTERS = 600


def unwrap(error: BaseException) -> LinnetError | None:
    """The first LinnetError among an exception, its causes and Ray Train's failures by worker."""
    return next((found for found in _chain(error, set()) if isinstance(found, LinnetError)), None)


def brief(error: BaseException) -> str:
    """The last line that says something, for an error that is not ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"


def in_one_sentence(error: BaseException) -> str:
    """`storage.full: The disk is full. From OSError: …`: an error and its causes, outermost first."""
    told = ""
    for link in _links(error):
        text = " ".join(str(link).split())[:_MOST_CHARACTERS]
        if text not in told or not told:
            name = link.code if isinstance(link, LinnetError) else type(link).__name__
            told += f"{' From ' if told else ''}{name}: {text}"
    return told


def _links(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__
    return found


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


def get(reference: Any) -> Any:
    """The value of a task; raises our own error where that is what the task raised."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise unwrap(error) or error from error

"""`{{candidate}}` and its kin in a query of the user's."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from cluster.errors import did_you_mean, one_of

_PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*\}\}")


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a rollout: the model and the labels of its two versions."""

    model: str
    candidate: str
    stable: str


_KNOWN = tuple(Names.__dataclass_fields__)


def require_known(query: str) -> str:
    """The query itself. Raises ValueError for a placeholder that stands for nothing."""
    for name in _PLACEHOLDER.findall(query):
        if name not in _KNOWN:
            raise ValueError(
                f"`{{{{{name}}}}}` is no placeholder.{did_you_mean(name, _KNOWN)} Accepted: {one_of(_KNOWN)}"
            )
    return query


def fill(query: str, names: Names) -> str:
    """The query with the names in it; they hold no quotes and no backslashes (`cluster/refs.py`)."""
    values = asdict(names)
    return _PLACEHOLDER.sub(lambda found: values[found[1]], query)

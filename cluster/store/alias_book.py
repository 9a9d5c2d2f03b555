"""Aliases of the store: authoritative in SQL, mirrored beside the versions, restored from there when lost."""

from __future__ import annotations

import json
import logging
from enum import Enum
from typing import Final

from sqlalchemy.orm import Session

from cluster.errors import NotFoundError
from cluster.refs import VersionRef
from cluster.state import aliases, events
from cluster.state.database import Database
from cluster.store.catalog import Catalog
from cluster.store.layout import alias_mirror

_LOG = logging.getLogger(__name__)


class Unchecked(Enum):
    """The type of `ANY`."""

    ANY = "any"


ANY: Final = Unchecked.ANY


class AliasBook:
    """Reads and moves aliases; every read first restores a model whose aliases were lost."""

    def __init__(self, catalog: Catalog, database: Database) -> None:
        self.catalog = catalog
        self.database = database

    def of_model(self, model: str) -> dict[str, str]:
        """All aliases of a model, by name."""
        with self.database.snapshot() as session:
            found = aliases.of_model(session, model)
        return found or self._restored(model)

    def move(
        self, model: str, alias: str, version: str | None, *, expected: str | Unchecked | None, reason: str
    ) -> None:
        """Compare-and-swap one alias, then mirror. Raises ConflictError and NotFoundError."""
        self.of_model(model)
        with self.database.transaction() as session:
            if version is not None:
                self._require(VersionRef(model=model, version=version))
            was = aliases.get(session, model, alias) if isinstance(expected, Unchecked) else expected
            aliases.move(session, model, alias, version, expected=was, reason=reason)
        self.mirror(model)

    def mirror(self, model: str) -> None:
        """Write what SQL says to `aliases.json`."""
        with self.database.snapshot() as session:
            found = aliases.of_model(session, model)
        self.catalog.storage.write_atomic(alias_mirror(model), (json.dumps(found, indent=2) + "\n").encode())

    def _require(self, ref: VersionRef) -> None:
        if not self.catalog.has(ref):
            raise self.catalog.unknown(ref)

    def _restored(self, model: str) -> dict[str, str]:
        mirrored = self._read_mirror(model)
        if not mirrored:
            return {}
        with self.database.transaction() as session:
            # A model whose aliases were taken away on purpose has events; a lost database has none.
            if aliases.of_model(session, model) or events.recent(session, f"{model}@", limit=1):
                return aliases.of_model(session, model)
            self._restore(session, model, mirrored)
            return aliases.of_model(session, model)

    def _restore(self, session: Session, model: str, mirrored: dict[str, str]) -> None:
        reason = "restored from the mirror: the database had no aliases"
        for alias, version in sorted(mirrored.items()):
            if self.catalog.has(VersionRef(model=model, version=version)):
                aliases.move(session, model, alias, version, expected=None, reason=reason)
            else:
                _LOG.warning("%s@%s names %s, which is not in the store: not restored", model, alias, version)

    def _read_mirror(self, model: str) -> dict[str, str]:
        try:
            found = json.loads(self.catalog.storage.read_bytes(alias_mirror(model)))
        except NotFoundError:
            return {}
        except ValueError as error:
            _LOG.warning("%s cannot be read: %s", alias_mirror(model), error)
            return {}
        return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}

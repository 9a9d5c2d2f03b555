"""Opening the database: engine settings, the migration to the newest schema, transactions."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from cluster.errors import StorageError

HEAD = "0008"


class Database:
    """Transactions on the state database, migrated when first opened.

    SQLite runs in WAL mode with writers taking the lock at BEGIN, so that a read followed by
    a write in one transaction never loses a race.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = _engine(url)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that commits at the end of the block, or rolls all of it back."""
        with self._session(self._engine) as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A session for reading one consistent state; it takes no write lock."""
        with self._session(self._engine.execution_options(linnet_read_only=True)) as session:
            yield session

    @contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                yield session
        except OperationalError as error:
            raise _explain(error, self.url) from error

    def dispose(self) -> None:
        """Close pooled connections."""
        self._engine.dispose()


@functools.lru_cache(maxsize=8)
def open_database(url: str) -> Database:
    """The process-wide database for `url`, created and migrated when needed."""
    location = make_url(url)
    if location.drivername.startswith("sqlite") and location.database:
        _prepare_directory(Path(location.database).parent, url)
    database = Database(url)
    try:
        _migrate(database._engine, url)
    except SQLAlchemyError as error:
        raise _explain(error, url) from error
    return database


def _prepare_directory(directory: Path, url: str) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explain(error, url) from error


def _engine(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": 30} if url.startswith("sqlite") else {})
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _tune_sqlite)
        event.listen(engine, "begin", _begin)
    return engine


def _tune_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


def _begin(connection: Any) -> None:
    reading = connection.get_execution_options().get("linnet_read_only", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _migrate(engine: Engine, url: str) -> None:
    if _revision(engine) == HEAD:
        return
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    config.attributes["engine"] = engine
    command.upgrade(config, HEAD)


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _explain(error: Exception, url: str) -> StorageError:
    shown = make_url(url).render_as_string(hide_password=True)
    cause = str(getattr(error, "orig", error)).splitlines()[0]
    return StorageError(
        f"The state database {shown} does not answer: {cause}.",
        code="state.unavailable",
        hint="`linnet doctor` checks the root and the database.",
        retryable=True,
    )

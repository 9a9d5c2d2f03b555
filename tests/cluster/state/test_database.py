import subprocess
import sys
import threading

import pytest
from sqlalchemy import inspect, text

from cluster.errors import StorageError
from cluster.state import events
from cluster.state.database import HEAD, Database, open_database
from cluster.state.tables import Base


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/deep/state.db"


@pytest.fixture
def database(url) -> Database:
    opened = open_database(url)
    yield opened
    opened.dispose()


def subjects(database: Database) -> list[str]:
    with database.snapshot() as session:
        return [row.subject for row in events.recent(session)]


def note(database: Database, subject: str) -> None:
    with database.transaction() as session:
        events.append(session, kind="k", subject=subject, sentence="s")


def test_opening_makes_the_directory_and_every_table(database):
    with database.snapshot() as session:
        tables = set(inspect(session.connection()).get_table_names())
        revision = session.execute(text("SELECT version_num FROM alembic_version")).scalar()

    assert set(Base.metadata.tables) <= tables
    assert revision == HEAD


def test_the_migrations_make_exactly_the_tables_of_the_code(database):
    with database.snapshot() as session:
        found = inspect(session.connection())
        made = {name: {c["name"] for c in found.get_columns(name)} for name in Base.metadata.tables}

    assert made == {name: {c.name for c in table.columns} for name, table in Base.metadata.tables.items()}


def test_what_was_committed_is_there_for_another_process(database, url):
    note(database, "a")
    program = (
        "import sys\nfrom cluster.state import events\nfrom cluster.state.database import open_database\n"
        "with open_database(sys.argv[1]).snapshot() as session:\n"
        "    print([row.subject for row in events.recent(session)])\n"
    )

    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "['a']"


def test_a_block_that_fails_leaves_nothing(database):
    def fail() -> None:
        with database.transaction() as session:
            events.append(session, kind="k", subject="a", sentence="s")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert subjects(database) == []


def test_one_url_is_one_database_in_a_process(database, url):
    assert open_database(url) is database


def test_readers_keep_one_consistent_state_while_a_writer_commits(database):
    note(database, "a")
    with database.snapshot() as session:
        before = [row.subject for row in events.recent(session)]
        writer = threading.Thread(target=note, args=(database, "b"))
        writer.start()
        writer.join()
        assert [row.subject for row in events.recent(session)] == before == ["a"]
    assert subjects(database) == ["a", "b"]


def test_read_then_write_never_loses_a_race(database):
    """Each thread appends the number it counted: lost updates would repeat one."""
    threads, rounds = 4, 5

    def count() -> None:
        for _ in range(rounds):
            with database.transaction() as session:
                number = len(events.recent(session, limit=1000))
                events.append(session, kind="k", subject=str(number), sentence="s")

    workers = [threading.Thread(target=count) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert subjects(database) == [str(number) for number in range(threads * rounds)]


def test_a_directory_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StorageError) as caught:
        open_database(f"sqlite:///{tmp_path}/file/deep/state.db")
    assert caught.value.code == "state.unavailable"


def test_a_file_that_is_no_database_is_a_storage_error(tmp_path):
    (tmp_path / "state.db").write_bytes(b"not a database at all" * 100)

    with pytest.raises(StorageError) as caught:
        open_database(f"sqlite:///{tmp_path}/state.db")
    assert caught.value.code == "state.unavailable"


def test_a_password_in_the_url_is_never_shown(tmp_path):
    from cluster.state.database import _explain

    shown = _explain(RuntimeError("refused"), "postgresql://me:hunter2@db.internal/linnet")

    assert "hunter2" not in shown.message
    assert "db.internal" in shown.message


def test_a_full_disk_is_a_storage_error_and_leaves_the_database_usable(small_disk):
    disk = small_disk("size=1m")
    database = open_database(f"sqlite:///{disk}/state.db")
    note(database, "before")

    def fill() -> None:
        with database.transaction() as session:
            events.append(session, kind="k", subject="big", sentence="x" * 2_000_000)

    with pytest.raises(StorageError):
        fill()
    assert subjects(database) == ["before"]
    note(database, "after")
    assert subjects(database) == ["before", "after"]
    database.dispose()

import hashlib
import json

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text

from cluster.errors import ConflictError, NotFoundError
from cluster.keys import Grant, Limits
from cluster.state import database as database_module
from cluster.state import events, keys
from cluster.state.database import Database, open_database
from cluster.state.tables import utc_now

SECRET = "sk-linnet-" + "0123456789abcdef" * 4


@pytest.fixture
def database(tmp_path) -> Database:
    opened = open_database(f"sqlite:///{tmp_path}/state.db")
    yield opened
    opened.dispose()


def add(database: Database, name: str = "ada", secret: str = SECRET, **granted) -> int:
    with database.transaction() as session:
        return keys.add(session, Grant(name=name, **granted), secret, actor="who").id


def revoke(database: Database, key_id: int) -> None:
    with database.transaction() as session:
        keys.revoke(session, key_id, reason="why", actor="who")


def find(database: Database, wanted: str) -> str:
    with database.snapshot() as session:
        return keys.find(session, wanted).name


def test_a_key_comes_back_as_it_was_granted(database):
    limits = Limits(requests_per_minute=5, tokens_per_minute=2**31 - 1)
    granted = {"models": ("m", "n"), "admin": True, "limits": limits, "expires_at": utc_now()}
    add(database, **granted)

    with database.snapshot() as session:
        (key,) = keys.valid(session)
    assert key.grant == Grant(name="ada", **granted)
    assert key.digest == hashlib.sha256(SECRET.encode()).digest()


def test_the_secret_is_nowhere_in_the_database(database, tmp_path):
    add(database)
    with database.transaction() as session:
        session.execute(text("SELECT 1"))
    database.dispose()

    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"01234567" in stored
    assert SECRET.encode() not in stored
    assert SECRET.removeprefix("sk-linnet-").encode() not in stored


def test_adding_and_revoking_are_events_without_the_hash(database):
    revoke(database, add(database, limits=Limits(max_concurrent=2)))

    with database.snapshot() as session:
        created, revoked = events.recent(session, "keys/ada")
    assert (created.kind, created.actor, created.detail["limits"]["max_concurrent"]) == (
        "key.created",
        "who",
        2,
    )
    assert (revoked.kind, revoked.reason) == ("key.revoked", "why")
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    assert digest not in json.dumps([created.detail, revoked.detail, created.sentence, revoked.sentence])


def test_a_name_is_taken_until_its_key_is_revoked(database):
    first = add(database)
    with pytest.raises(ConflictError) as caught:
        add(database, secret=SECRET + "2")
    assert caught.value.code == "key.exists"
    assert "revoke ada" in caught.value.hint
    revoke(database, first)
    add(database, secret=SECRET + "2")

    with database.snapshot() as session:
        assert [row.revoked_at is None for row in keys.everything(session)] == [False, True]
        assert len(keys.valid(session)) == 1


def test_the_database_itself_refuses_a_second_key_of_a_name(database, monkeypatch):
    add(database)
    monkeypatch.setattr(keys, "require_free", lambda _session, _name: None)

    with pytest.raises(ConflictError, match="already"):
        add(database, secret=SECRET + "2")


def test_found_by_name_by_prefix_and_by_the_beginning_of_the_secret(database):
    add(database)
    add(database, "bob", "sk-linnet-ffffffff0000")

    assert [find(database, wanted) for wanted in ("ada", "01234567", SECRET, "sk-linnet-ffffffff")] == [
        "ada",
        "ada",
        "ada",
        "bob",
    ]


def test_a_name_wins_over_a_prefix(database):
    add(database)
    add(database, "01234567", "sk-linnet-ffffffff0000")
    assert find(database, "01234567") == "01234567"


def test_a_prefix_of_two_keys_is_refused(database):
    add(database)
    add(database, "bob", SECRET + "2")
    with pytest.raises(ConflictError, match="ada, bob") as caught:
        find(database, "01234567")
    assert caught.value.code == "key.ambiguous"


@pytest.mark.parametrize("wanted", ["adda", "", "%", "0123", "' OR 1=1"])
def test_an_unknown_key_lists_what_there_is(database, wanted):
    add(database)
    with pytest.raises(NotFoundError) as caught:
        find(database, wanted)
    assert caught.value.code == "key.unknown"
    assert caught.value.hint == "Keys: ada."


def test_a_revoked_key_is_not_revoked_again(database):
    key_id = add(database)
    revoke(database, key_id)
    with pytest.raises(ConflictError) as caught:
        find(database, "ada")
    assert caught.value.code == "key.revoked"
    with pytest.raises(ConflictError):
        revoke(database, key_id)
    with database.snapshot() as session:
        assert len(events.recent(session, "keys/")) == 2


def test_the_mark_changes_with_every_change_and_with_nothing_else(database):
    def mark():
        with database.snapshot() as session:
            return keys.mark(session)

    marks = [mark()]
    first = add(database)
    marks.append(mark())
    add(database, "bob", SECRET + "2")
    marks.append(mark())
    revoke(database, first)
    marks.append(mark())
    assert len(set(marks)) == 4
    assert mark() == marks[-1]


def test_a_database_of_the_first_schema_keeps_its_rows(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/old.db"
    old = Database(url)
    config = Config()
    config.set_main_option(
        "script_location", str(database_module.Path(database_module.__file__).parent / "migrations")
    )
    config.attributes["engine"] = old._engine
    command.upgrade(config, "0001")
    with old.transaction() as session:
        events.append(session, kind="k", subject="before", sentence="s")
        assert not inspect(session.connection()).has_table("api_keys")
    old.dispose()

    opened = open_database(url)
    add(opened)
    with opened.snapshot() as session:
        assert [row.subject for row in events.recent(session)] == ["before", "keys/ada"]
    opened.dispose()

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import ConflictError
from cluster.state import aliases, events
from cluster.state.database import Database, open_database
from cluster.state.tables import AliasRow

VERSIONS = st.none() | st.sampled_from(["v1", "v2", "v3"])


@pytest.fixture
def database(tmp_path) -> Database:
    opened = open_database(f"sqlite:///{tmp_path}/state.db")
    yield opened
    opened.dispose()


def move(database: Database, version: str | None, *, expected: str | None, alias: str = "stable") -> None:
    with database.transaction() as session:
        aliases.move(session, "m", alias, version, expected=expected, reason="why", actor="who")


def current(database: Database) -> dict[str, str]:
    with database.snapshot() as session:
        return aliases.of_model(session, "m")


def told(database: Database) -> list[dict]:
    with database.snapshot() as session:
        return [row.detail for row in events.recent(session, "m@")]


@given(moves=st.lists(st.tuples(st.sampled_from(["a", "b"]), VERSIONS, VERSIONS), max_size=12))
@settings(max_examples=40)
def test_moves_behave_like_a_dictionary_with_compare_and_swap(tmp_path_factory, moves):
    database = open_database(f"sqlite:///{tmp_path_factory.mktemp('state')}/state.db")
    model: dict[str, str | None] = {}
    history = []
    for alias, version, expected in moves:
        if model.get(alias) != expected:
            with pytest.raises(ConflictError):
                move(database, version, expected=expected, alias=alias)
        else:
            move(database, version, expected=expected, alias=alias)
            if version != expected:
                history.append({"from": expected, "to": version})
            model[alias] = version

    assert current(database) == {alias: version for alias, version in model.items() if version}
    assert told(database) == history
    database.dispose()


def test_each_move_is_an_event_with_who_why_and_from_what(database):
    move(database, "v1", expected=None)
    move(database, "v2", expected="v1")

    with database.snapshot() as session:
        last = events.recent(session, "m@stable")[-1]
    assert (last.kind, last.subject, last.actor, last.reason) == ("alias.moved", "m@stable", "who", "why")
    assert last.detail == {"from": "v1", "to": "v2"}
    assert "from v1 to v2" in last.sentence


def test_a_conflict_names_both_and_changes_nothing(database):
    move(database, "v1", expected=None)

    with pytest.raises(ConflictError, match="points at v1, expected v9") as caught:
        move(database, "v2", expected="v9")

    assert caught.value.retryable
    assert current(database) == {"stable": "v1"}
    assert len(told(database)) == 1


def test_a_failure_later_in_the_transaction_takes_the_move_and_its_event_back(database):
    def move_and_fail() -> None:
        with database.transaction() as session:
            aliases.move(session, "m", "stable", "v1", expected=None, reason="why")
            raise RuntimeError("later")

    with pytest.raises(RuntimeError):
        move_and_fail()

    assert current(database) == {}
    assert told(database) == []


def test_revisions_count_the_moves(database):
    for number, version in enumerate(["v1", "v2", "v3"]):
        move(database, version, expected=["v1", "v2", "v3"][number - 1] if number else None)

    with database.snapshot() as session:
        row = session.get(AliasRow, ("m", "stable"))
    assert row.revision == 3


def test_models_do_not_see_each_other(database):
    move(database, "v1", expected=None)
    with database.transaction() as session:
        aliases.move(session, "m2", "stable", "v7", expected=None, reason="x")

    assert current(database) == {"stable": "v1"}
    with database.snapshot() as session:
        assert aliases.get(session, "m2", "stable") == "v7"
        assert aliases.get(session, "m3", "stable") is None

import pytest

from cluster.errors import ConfigError
from train_jobs import fit, planning, room
from train_jobs.ending import Ending, Why


@pytest.fixture
def todo(store, spec, settings):
    return planning.plan(spec, settings)


@pytest.fixture
def attached(monkeypatch):
    """A cluster that stands and has no room; how often it was attached to."""
    calls = []
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6390")
    monkeypatch.setattr(room.runtime, "attach", calls.append)

    def refuse(*_):
        raise ConfigError("Too few.", code="train.too_few_cpus")

    monkeypatch.setattr(fit, "require_room", refuse)
    return calls


def test_no_cluster_is_started_to_look_for_room(todo, settings, monkeypatch):
    monkeypatch.setattr(room.runtime, "attach", lambda _: pytest.fail("attached"))
    assert not room.was_checked(todo, settings)


def test_the_cluster_that_stands_is_asked(todo, settings, attached):
    with pytest.raises(ConfigError, match="Too few"):
        room.was_checked(todo, settings)
    assert len(attached) == 1


def test_a_trained_run_needs_no_room(todo, settings, attached):
    trained = todo.model_copy(update={"end": Ending(step=8, why=Why.MAX_STEPS)})
    assert room.was_checked(trained, settings)
    assert attached == []


def test_one_that_does_not_answer_was_not_asked(todo, settings, attached, monkeypatch):
    def fail(_):
        raise ConnectionError

    monkeypatch.setattr(room.runtime, "attach", fail)
    assert not room.was_checked(todo, settings)

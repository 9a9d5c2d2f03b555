import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import errors
from cluster.errors import ExitCode, LinnetError, did_you_mean, one_of


def _family(base: type[LinnetError] = LinnetError) -> list[type[LinnetError]]:
    return [base, *(found for child in base.__subclasses__() for found in _family(child))]


FAMILY = [cls for cls in _family() if cls.__module__ == errors.__name__]


@given(
    cls=st.sampled_from(FAMILY),
    message=st.text(),
    hint=st.text(),
    code=st.none() | st.text(min_size=1),
    retryable=st.booleans(),
)
def test_an_error_crosses_process_borders_whole(cls, message, hint, code, retryable):
    error = cls(message, code=code, hint=hint, retryable=retryable)

    arrived = pickle.loads(pickle.dumps(error))

    assert type(arrived) is cls
    assert arrived.to_dict() == error.to_dict()
    assert str(arrived) == message
    assert arrived.exit_code == error.exit_code


@pytest.mark.parametrize(
    ("name", "exit_code"),
    [
        ("LinnetError", 1),
        ("UsageError", 2),
        ("ConfigError", 2),
        ("NotFoundError", 3),
        ("GateFailedError", 4),
        ("TimedOutError", 5),
        ("InterruptedRunError", 130),
        ("ConflictError", 1),
        ("IntegrityError", 1),
        ("StorageError", 1),
        ("EnvironmentSetupError", 1),
    ],
)
def test_each_error_has_its_exit_code(name, exit_code):
    assert getattr(errors, name).exit_code == exit_code == ExitCode(exit_code)


def test_every_error_has_a_code_of_its_own():
    codes = [cls.default_code for cls in FAMILY]

    assert len(set(codes)) == len(codes)


def test_the_json_form_has_exactly_the_four_keys():
    shown = errors.NotFoundError("gone", code="models.unknown", hint="look").to_dict()

    assert shown == {"code": "models.unknown", "message": "gone", "hint": "look", "retryable": False}


def test_the_terminal_form_leaves_an_empty_hint_out():
    assert LinnetError("broken").render() == "error[failed]: broken"
    assert LinnetError("broken", hint="mend").render() == "error[failed]: broken\nhint: mend"


def test_suggestions_name_the_nearest_word_only_when_it_is_near():
    assert did_you_mean("stabel", ["stable", "candidate"]) == " Did you mean `stable`?"
    assert did_you_mean("zebra", ["stable", "candidate"]) == ""
    assert did_you_mean("x", []) == ""


def test_accepted_values_are_sorted_and_never_an_empty_sentence():
    assert one_of(["b", "a", "b"]) == "a, b"
    assert one_of([]) == "(none)"

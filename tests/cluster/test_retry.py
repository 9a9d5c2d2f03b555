import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import NotFoundError, StorageError
from cluster.retry import Retry


def _retry_of(slept, **limits):
    return Retry(clock=lambda: sum(slept), sleep=slept.append, **limits)


def _fails(times, error):
    left = iter(range(times))

    def act():
        if next(left, None) is not None:
            raise error
        return "done"

    return act


PASSING = StorageError("The server does not answer.", code="storage.failed", hint="Wait.", retryable=True)


@given(
    failures=st.integers(0, 30), first=st.floats(0.1, 5), longest=st.floats(5, 60), deadline=st.floats(0, 500)
)
def test_pauses_double_to_the_longest_and_never_outlast_the_deadline(failures, first, longest, deadline):
    pauses = [min(first * 2**n, longest) for n in range(failures)]
    in_time = [n for n in range(failures + 1) if sum(pauses[:n]) <= deadline]
    slept = []
    retry = _retry_of(slept, first_s=first, longest_s=longest, deadline_s=deadline)

    if in_time[-1] == failures:
        assert retry.call(_fails(failures, PASSING)) == "done"
    else:
        with pytest.raises(StorageError, match=f"Tried {in_time[-1] + 1} times") as caught:
            retry.call(_fails(failures, PASSING))
        assert caught.value.retryable
        assert (caught.value.code, caught.value.hint) == ("storage.failed", "Wait.")

    assert slept == pauses[: in_time[-1]]


@pytest.mark.parametrize(
    "error",
    [
        StorageError("full", code="storage.full", retryable=True),
        StorageError("denied", code="storage.denied"),
        NotFoundError("absent", retryable=True),
    ],
)
def test_what_does_not_pass_by_waiting_is_raised_at_once(error):
    slept = []
    with pytest.raises(type(error)) as caught:
        _retry_of(slept).call(_fails(1, error))
    assert caught.value is error
    assert slept == []

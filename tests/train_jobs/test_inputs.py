import pytest

from cluster.errors import ConflictError, IntegrityError
from train_jobs import inputs
from train_jobs.inputs import Inputs

BEGAN = Inputs(train="a" * 64, validation="b" * 64, base="c" * 64)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"train": "d" * 64}, "train.data_changed"),
        ({"validation": "d" * 64}, "train.validation_changed"),
        ({"validation": None}, "train.validation_changed"),
        ({"base": "d" * 64}, "train.base_changed"),
    ],
)
def test_what_a_run_is_made_from_may_change_only_while_it_has_done_nothing(files, change, code):
    inputs.settle(files, BEGAN, has_begun=False)
    other = BEGAN.model_copy(update=change)
    with pytest.raises(ConflictError) as caught:
        inputs.settle(files, other, has_begun=True)
    assert caught.value.code == code
    (name,) = change
    for digest in (getattr(BEGAN, name), change[name] or "none"):
        assert digest[:12] in caught.value.message
    assert inputs.read(files) == BEGAN
    inputs.settle(files, other, has_begun=False)
    assert inputs.read(files) == other


def test_the_same_goes_on(files):
    inputs.settle(files, BEGAN, has_begun=False)
    inputs.settle(files, BEGAN, has_begun=True)


def test_what_a_run_began_with_is_written_where_nobody_had(files):
    assert inputs.read(files) is None
    inputs.settle(files, BEGAN, has_begun=True)
    assert inputs.read(files) == BEGAN


def test_a_file_that_does_not_read_is_named(files):
    files.storage.write_atomic(files.inputs, b"{")
    with pytest.raises(IntegrityError, match=r"inputs\.json"):
        inputs.read(files)

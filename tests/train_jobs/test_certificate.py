import json
import math

import pytest

from cluster.errors import ConfigError
from tests.train_jobs.test_ledger import entry
from train_jobs.certificate import (
    Certificate,
    Verdict,
    append_certificate,
    compare,
    read_certificates,
)


def test_a_step_that_came_out_alike_has_no_difference(spec):
    assert compare(entry(spec, 3), entry(spec, 3, attempt=2)) is None
    assert compare(entry(spec, 3, loss=math.nan), entry(spec, 3, loss=math.nan)) is None


@pytest.mark.parametrize(
    ("name", "value"), [("draws", "ff"), ("learning_rate", 0.5), ("loss", 0.25), ("grad_norm", math.inf)]
)
def test_a_difference_is_named_with_both_values(spec, name, value):
    before = entry(spec, 3)
    found = compare(before, entry(spec, 3, **{name: value}))
    assert found == f"step 3: {name} was {getattr(before, name)!r}, is {value!r}"


def test_the_last_bit_of_a_loss_counts(spec):
    found = compare(entry(spec, 3, loss=0.3), entry(spec, 3, loss=0.1 + 0.2))
    assert found == "step 3: loss was 0.3, is 0.30000000000000004"


def test_the_sign_of_a_zero_counts(spec):
    assert compare(entry(spec, 3, loss=0.0), entry(spec, 3, loss=-0.0)) is not None


def test_the_first_difference_is_told_in_the_order_in_which_it_arose(spec):
    changes = [
        ("samples", [1] * 8),
        ("draws", "0"),
        ("learning_rate", 9.0),
        ("loss", 9.0),
        ("grad_norm", 9.0),
    ]
    before = entry(spec, 3)
    for place, (name, _) in enumerate(changes):
        found = compare(before, entry(spec, 3, **dict(changes[place:])))
        assert found.startswith(f"step 3: {name.removesuffix('s') if name == 'samples' else name} ")


def test_the_first_differing_sample_is_named(spec):
    samples = entry(spec, 3).samples
    swapped = [samples[0], samples[2], samples[1], *samples[3:]]
    found = compare(entry(spec, 3), entry(spec, 3, samples=swapped))
    assert found == f"step 3: sample 1 was {samples[1]}, is {samples[2]}"
    assert compare(entry(spec, 3), entry(spec, 3, samples=samples[:-1])) == (
        f"step 3: sample 7 was {samples[7]}, is None"
    )


def test_a_line_that_is_no_certificate_is_refused_with_its_file(files):
    files.storage.append_line(files.certificates, b'{"attempt": 2, "verdict": "fine"}')
    with pytest.raises(ConfigError, match=r"certificates\.jsonl"):
        read_certificates(files)


def test_certificates_are_kept_in_order_and_a_torn_line_is_passed_over(files):
    one = Certificate(attempt=2, restored_step=3, replayed_steps=[4, 5], verdict=Verdict.EQUAL)
    two = Certificate(
        attempt=3, restored_step=6, replayed_steps=[], verdict=Verdict.NOTHING, note="nothing was done"
    )
    assert read_certificates(files) == []
    append_certificate(files, one)
    with files.storage.local_path(files.certificates).open("ab") as torn:
        torn.write(b'{"attempt": 9, "resto')
    append_certificate(files, two)
    assert read_certificates(files) == [one, two]
    first = json.loads(files.storage.read_bytes(files.certificates).splitlines()[0])
    assert first["verdict"] == "equal"

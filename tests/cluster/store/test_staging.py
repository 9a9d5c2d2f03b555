import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from cluster.store.staging import ABANDONED_AFTER, is_abandoned, removed_name, staging_name, subject_of

NOW = datetime.now(UTC)
LABELS = st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}", re.ASCII), fullmatch=True)


@given(label=LABELS)
def test_names_are_hidden_unique_and_say_what_they_are_about(label):
    for make in (staging_name, removed_name):
        name = make(label)
        assert name.startswith(".")
        assert name != make(label)
        assert subject_of(name) == label


def test_work_of_a_living_process_is_never_abandoned_before_its_time():
    name = staging_name("v1")

    assert not is_abandoned(name, NOW, NOW)
    assert not is_abandoned(name, NOW - ABANDONED_AFTER + timedelta(seconds=1), NOW)
    assert is_abandoned(name, NOW - ABANDONED_AFTER - timedelta(seconds=1), NOW)


def test_work_of_a_process_that_ended_is_abandoned_at_once():
    program = "from cluster.store.staging import staging_name; print(staging_name('v1'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert is_abandoned(done.stdout.strip(), NOW, NOW)


def test_of_another_machine_only_age_tells():
    name = re.sub(r"--[0-9a-f]{8}-\d+-", "--00000000-999999999-", staging_name("v1"))

    assert not is_abandoned(name, NOW, NOW)
    assert is_abandoned(name, NOW - timedelta(days=2), NOW)


def test_other_names_are_left_alone():
    for name in ("v1", ".hidden", ".staging-", f".staging-v1-{os.getpid()}"):
        assert subject_of(name) is None
        assert not is_abandoned(name, NOW - timedelta(days=365), NOW)

import pytest

from cluster.doctor import machine
from cluster.doctor.check import GIB
from cluster.doctor.machine import (
    available_memory,
    check_cores,
    check_disk,
    check_memory,
    check_shared_memory,
)


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (check_cores(2), "pass"),
        (check_cores(1), "warn"),
        (check_memory(16 * GIB), "pass"),
        (check_memory(8 * GIB), "warn"),
        (check_memory(2 * GIB), "fail"),
        (check_shared_memory(4 * GIB), "pass"),
        (check_shared_memory(64 * 2**20), "warn"),
        (check_shared_memory(None), "warn"),
        (check_disk("disk", 50 * GIB, 100 * GIB), "pass"),
        (check_disk("disk", 5 * GIB, 50 * GIB), "warn"),
        (check_disk("disk", 1 * GIB, 10 * GIB), "fail"),
        (check_disk("disk", 40 * GIB, 1000 * GIB), "fail"),
    ],
)
def test_resources_are_graded_and_what_is_short_has_a_mend(check, status):
    assert (check.status, bool(check.mend)) == (status, status != "pass")


def test_a_container_s_limit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    unlimited = available_memory()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1024\n")
    assert available_memory() > 4096
    (tmp_path / "memory.max").write_text("5120\n")
    assert available_memory() == 4096 < unlimited

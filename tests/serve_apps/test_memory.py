import asyncio
import os
import subprocess
import sys

import pytest

from cluster.errors import GateFailedError
from serve_apps import device_memory
from serve_apps.memory import MemoryGuard, held_bytes, told

MIB = 2**20


@pytest.fixture
def child():
    """A process below this one that holds 64 MiB."""
    program = f"held = bytearray(b'x' * {64 * MIB}); print('ready', flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.communicate("\n")


def test_what_is_below_a_process_counts(child):
    alone, together = held_bytes(child.pid), held_bytes(os.getpid())
    assert alone > 64 * MIB
    assert together > alone


def test_a_replica_near_its_limit_says_so_and_goes_on_saying_so(child):
    guard = MemoryGuard(child.pid, limit_gib=0.05)
    for _ in range(2):
        with pytest.raises(GateFailedError, match=r"its limit is 0\.05 GiB") as caught:
            asyncio.run(guard.check())
    assert caught.value.code == "gate.memory"


def test_below_the_limit_it_is_looked_at_every_few_seconds(child, monkeypatch):
    looks = []
    monkeypatch.setattr("serve_apps.memory.held_bytes", lambda pid: looks.append(pid) or 1)
    now = [0.0]
    guard = MemoryGuard(child.pid, limit_gib=1.0, clock=lambda: now[0])
    for now[0] in (0.0, 1.0, 4.9, 5.0, 9.0):
        asyncio.run(guard.check())
    assert looks == [child.pid] * 2


def test_a_row_is_told_what_the_tree_holds_and_what_its_devices_do(child, monkeypatch):
    asked = []
    monkeypatch.setattr(device_memory, "held_bytes", lambda pids: asked.append(pids) or 5 * MIB)
    found = asyncio.run(told(os.getpid()))
    assert found["memory_bytes"] > 64 * MIB
    assert found["device_memory_bytes"] == 5 * MIB
    assert {os.getpid(), child.pid} <= asked[0]


def test_what_cannot_be_measured_is_told_as_unknown(monkeypatch):
    def broken(_):
        raise RuntimeError("a defect")

    monkeypatch.setattr("serve_apps.memory.held_bytes", broken)
    assert asyncio.run(told(os.getpid())) == {"memory_bytes": None}

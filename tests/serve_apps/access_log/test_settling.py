from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.errors import StorageError
from cluster.storage import Storage
from serve_apps.access_log import files
from serve_apps.access_log.settling import Order, settle, settle_apart
from serve_apps.access_log.spool import Spool
from tests.serve_apps.access_log.samples import lines, row
from tests.serve_apps.gateway.servers import eventually

CALLER = """
import sys
from serve_apps.access_log.settling import Order, settle_apart
settle_apart(Order.model_validate_json(sys.argv[1]))
"""


def spooled(directory, name, *rows) -> Spool:
    spool = Spool(directory, name)
    spool.append(lines(*rows))
    return spool


def today(**given):
    return row(at=datetime.now(UTC), **given)


def order(directory: Path, storage: Storage, keep_days: int = 30) -> Order:
    return Order(directory=directory, root=storage.url, keep_days=keep_days)


def stored(storage: Storage) -> list[str]:
    return sorted(path.rsplit("/", 1)[1] for path in storage.list_files(files.FOLDER))


@pytest.mark.parametrize("way", [settle, settle_apart])
def test_complete_spools_become_parquet_and_living_ones_stay(way, storage, tmp_path):
    directory = tmp_path / "spool"
    spooled(directory, "dead-0", today()).close()
    spooled(directory, "dead-1", today(version="v2")).close()
    living = spooled(directory, "living-0", today())
    way(order(directory, storage))
    assert stored(storage) == ["dead-0.parquet", "dead-1.parquet"]
    assert [file.name for file in directory.iterdir()] == ["living-0.jsonl"]
    living.close()


def test_old_days_go(storage, tmp_path):
    old = datetime.now(UTC) - timedelta(days=9)
    files.store(storage, "gw", lines(row(at=old), today()))
    settle(order(tmp_path, storage, keep_days=10))
    assert len(files.days(storage)) == 2
    settle(order(tmp_path, storage, keep_days=3))
    assert files.days(storage) == [datetime.now(UTC).date()]


def test_a_storage_that_refuses_keeps_the_spools_and_its_reason_is_told(tmp_path):
    directory, root = tmp_path / "spool", tmp_path / "root"
    root.write_text("a file where the folder should be")
    spooled(directory, "gw-0", today()).close()
    with pytest.raises(StorageError, match="logs/access"):
        settle_apart(order(directory, Storage(str(root))))
    assert (directory / "gw-0.jsonl").exists()


def test_a_process_that_fails_otherwise_is_told_too(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StorageError, match="ended by itself"):
        settle_apart(Order(directory=tmp_path, root=str(tmp_path), keep_days=1))


def test_it_ends_with_who_ordered_it_and_takes_no_secret_as_an_argument(tmp_path):
    """Its storage never answers: a pipe where the spool should be, which nobody writes."""
    directory, secret = tmp_path / "spool", b"secret-of-the-root"
    directory.mkdir()
    os.mkfifo(directory / "gw-0.jsonl")
    given = Order(directory=directory, root=f"file://{tmp_path}/{secret.decode()}", keep_days=1)
    with subprocess.Popen([sys.executable, "-c", CALLER, given.model_dump_json()]) as caller:
        try:
            eventually(lambda: children(caller.pid), "it is started")
            [pid] = children(caller.pid)
            # Until then it shows the arguments of its caller.
            eventually(lambda: b"-m" in command(pid), "it is another program")
            assert secret not in b" ".join(command(pid))
        finally:
            caller.send_signal(signal.SIGKILL)
    eventually(lambda: command(pid) == [], "it has ended")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command(pid: int) -> list[bytes]:
    """Empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except FileNotFoundError:
        return []


def test_a_spool_that_another_settles_is_left_to_it(storage, tmp_path):
    directory = tmp_path / "spool"
    spooled(directory, "gw-0", today()).close()
    with (directory / "gw-0.jsonl").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        settle_apart(order(directory, storage))
    assert stored(storage) == []
    assert (directory / "gw-0.jsonl").exists()

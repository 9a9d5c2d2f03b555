from __future__ import annotations

from datetime import date

from cluster.errors import StorageError
from serve_apps.access_log import settler as settler_module
from serve_apps.access_log.settler import Settler
from serve_apps.access_log.spool import Spool
from tests.serve_apps.access_log.samples import lines, row


class Work:
    """Settles nothing; refuses while it is told to."""

    def __init__(self) -> None:
        self.times = 0
        self.refuses = False

    def __call__(self) -> None:
        self.times += 1
        if self.refuses:
            raise StorageError("it is full", code="storage.full")


def complete_spool(directory) -> None:
    spool = Spool(directory, "gw-0")
    spool.append(lines(row()))
    spool.close()


def test_there_is_work_when_a_spool_is_complete_and_when_a_day_begins(tmp_path, monkeypatch):
    work = Work()
    settler = Settler(tmp_path, work)
    spool = Spool(tmp_path, "gw-0")
    spool.append(lines(row()))
    assert [settler.settle() for _ in range(3)] == [1, 1, 1]
    assert work.times == 0
    spool.close()
    settler.settle()
    assert work.times == 1
    (tmp_path / "gw-0.jsonl").unlink()
    monkeypatch.setattr(settler_module, "_today", lambda: date(2100, 1, 1))
    assert [settler.settle() for _ in range(3)] == [1, 1, 1]
    assert work.times == 2


def test_a_storage_that_refuses_is_named_once_and_tried_less_often(tmp_path, caplog):
    work = Work()
    work.refuses = True
    complete_spool(tmp_path)
    settler = Settler(tmp_path, work)
    assert [settler.settle() for _ in range(9)] == [2, 4, 8, 16, 32, 60, 60, 60, 60]
    named = [line.message for line in caplog.records if "stays on the local disk" in line.message]
    assert named == ["the access log stays on the local disk: it is full"]
    work.refuses = False
    assert settler.settle() == 1
    assert work.times == 10

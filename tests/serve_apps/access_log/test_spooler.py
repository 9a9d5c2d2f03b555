from __future__ import annotations

from collections import deque

import pytest

from serve_apps.access_log import spooler
from serve_apps.access_log.config import AccessLogConfig
from serve_apps.access_log.files import read
from serve_apps.access_log.spool import complete, everything
from serve_apps.access_log.spooler import Spooler
from tests.serve_apps.access_log.samples import row
from tests.support.disks import small_disks


def ids(spools) -> list[list[str]]:
    return [read(lines)["request_id"].to_pylist() for _, lines in spools]


def test_rows_are_on_the_disk_after_a_flush_and_complete_after_the_close(tmp_path):
    queue = deque([row(1), row(2)])
    writer = Spooler(queue, tmp_path, AccessLogConfig(flush_s=0.25))
    assert writer.flush() == 0.25
    assert not queue
    assert ids(complete(tmp_path)) == []
    assert ids(everything(tmp_path)) == [["r1", "r2"]]
    queue.append(row(3))
    writer.flush()
    writer.close()
    assert ids(complete(tmp_path)) == [["r1", "r2", "r3"]]


def test_no_rows_make_no_file(tmp_path):
    writer = Spooler(deque(), tmp_path / "spool", AccessLogConfig())
    writer.flush()
    writer.close()
    assert list(tmp_path.rglob("*.jsonl")) == []


def test_a_spool_ends_by_its_rows_its_bytes_or_its_age(tmp_path, monkeypatch):
    queue = deque()
    writer = Spooler(queue, tmp_path, AccessLogConfig(rotate_rows=2))
    for number in (1, 2, 3):
        queue.append(row(number))
        writer.flush()
    assert ids(complete(tmp_path)) == [["r1", "r2"]]
    monkeypatch.setattr(spooler, "_ROTATE_BYTES", 10)
    queue.append(row(4))
    writer.flush()
    assert ids(complete(tmp_path)) == [["r3", "r4"]]
    old = Spooler(queue, tmp_path, AccessLogConfig(rotate_s=1e-9))
    monkeypatch.undo()
    queue.append(row(5))
    old.flush()
    assert ids(complete(tmp_path)) == [["r5"]]


def test_a_full_disk_keeps_rows_in_memory_warns_once_and_goes_on(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(spooler, "LEFT_FREE", 32 * 1024)
    with small_disks(tmp_path) as mount:
        disk = mount("size=128k")
        (disk / "ballast").write_bytes(b"x" * 110 * 1024)
        queue = deque([row(1)])
        writer = Spooler(queue, disk / "spool", AccessLogConfig())
        for _ in range(3):
            writer.flush()
        queue.append(row(2))
        assert len([line for line in caplog.records if "wait in memory" in line.message]) == 1
        assert ids(everything(disk / "spool")) == []
        (disk / "ballast").unlink()
        writer.flush()
        writer.close()
        assert ids(complete(disk / "spool")) == [["r1", "r2"]]


@pytest.mark.parametrize("prompt", [None, "mail ann@example.com"])
def test_texts_are_redacted_before_they_reach_the_disk(tmp_path, prompt):
    queue = deque([row(1, prompt=prompt, answer="at ann@example.com")])
    writer = Spooler(queue, tmp_path, AccessLogConfig(max_text_bytes=15))
    writer.flush()
    [(_, data)] = everything(tmp_path)
    assert b"example" not in data
    [found] = read(data).to_pylist()
    assert (found["prompt"], found["answer"]) == (prompt and "mail [redacted]", "at [redacted]")
    writer.close()

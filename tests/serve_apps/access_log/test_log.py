from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from cluster.storage import Storage
from serve_apps.access_log import files, log
from serve_apps.access_log.config import AccessLogConfig
from serve_apps.access_log.log import AccessLog
from serve_apps.access_log.query import AccessLogs, Wanted
from serve_apps.access_log.spool import spool_dir
from tests.serve_apps.access_log.samples import row
from tests.serve_apps.gateway.servers import eventually

# The samples have a fixed date, which will be long ago.
ALWAYS = {"keep_days": 10**5}

WRITER = """
import sys, time
from cluster.config import Settings
from serve_apps.access_log.config import AccessLogConfig
from serve_apps.access_log.log import AccessLog
from tests.serve_apps.access_log.samples import row

settings = Settings.model_validate_json(sys.argv[1])
log = AccessLog(AccessLogConfig(flush_s=0.05, rotate_rows=7, keep_days=10**5), settings)
log.start()
number = 0
while True:
    log.add(row(number))
    number += 1
    if number % 10 == 0:
        time.sleep(0.01)
        print(number, flush=True)
"""


def ids(settings) -> list[str]:
    logs = AccessLogs(Storage(settings.root), spool_dir(settings))
    return logs.newest(Wanted(), 10**6)["request_id"].to_pylist()


def test_a_log_that_is_stopped_leaves_parquet_and_no_spool(settings):
    writer = AccessLog(AccessLogConfig(**ALWAYS), settings)
    writer.start()
    for number in range(1200):
        assert not writer.add(row(number, at=datetime.now(UTC)))
    writer.stop()
    assert list(spool_dir(settings).iterdir()) == []
    assert sorted(ids(settings)) == sorted(f"r{number}" for number in range(1200))


def test_rows_show_before_they_are_parquet(settings):
    writer = AccessLog(AccessLogConfig(flush_s=0.01, **ALWAYS), settings)
    writer.start()
    writer.add(row(1))
    eventually(lambda: ids(settings) == ["r1"], "the row shows")
    assert Storage(settings.root).list_files(files.FOLDER) == []
    writer.stop()


def test_a_killed_writers_rows_are_settled_by_the_next_and_each_is_there_once(settings):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, settings.model_dump_json()], stdout=subprocess.PIPE, text=True
    )
    written = 0
    eventually(lambda: len(ids(settings)) > 50, "rows are written")
    before = set(ids(settings))
    process.send_signal(signal.SIGKILL)
    for line in process.stdout:
        written = int(line)
    process.wait()
    process.stdout.close()
    assert list(spool_dir(settings).iterdir())
    writer = AccessLog(AccessLogConfig(**ALWAYS), settings)
    writer.start()
    eventually(lambda: not list(spool_dir(settings).iterdir()), "the spools are settled")
    writer.stop()
    found = ids(settings)
    assert len(found) == len(set(found))
    assert before <= set(found)
    # All but the last moment's: rows are written in order, and none in between is missing.
    numbers = sorted(int(one[1:]) for one in found)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) <= written + 10


def test_a_queue_that_is_full_drops_the_oldest_and_says_so(settings, monkeypatch):
    monkeypatch.setattr(log, "QUEUE_ROWS", 3)
    writer = AccessLog(AccessLogConfig(**ALWAYS), settings)
    assert [writer.add(row(number)) for number in range(5)] == [False, False, False, True, True]
    writer.start()
    writer.stop()
    assert sorted(ids(settings)) == ["r2", "r3", "r4"]


def test_a_storage_that_refuses_costs_no_row(settings, tmp_path):
    root = tmp_path / "root"
    root.write_text("a file where the folder should be")
    refused = settings.model_copy(update={"root": str(root)})
    writer = AccessLog(AccessLogConfig(flush_s=0.01, **ALWAYS), refused)
    writer.start()
    writer.add(row(1))
    writer.stop()
    [spool] = spool_dir(settings).iterdir()
    assert json.loads(spool.read_text())["request_id"] == "r1"
    root.unlink()
    again = AccessLog(AccessLogConfig(**ALWAYS), refused)
    again.start()
    again.stop()
    assert ids(refused) == ["r1"]


def test_rows_of_a_log_on_s3(settings, storage):
    shared = settings.model_copy(update={"root": storage.url})
    writer = AccessLog(AccessLogConfig(**ALWAYS), shared)
    writer.start()
    for number in range(3):
        writer.add(row(number))
    writer.stop()
    assert ids(shared) == ["r2", "r1", "r0"]
    assert len(storage.list_files(files.FOLDER)) == 1


@pytest.mark.parametrize(
    ("prompts", "rate", "kept"), [("none", 1, 0), ("sampled", 0, 0), ("sampled", 1, 100), ("all", 0, 100)]
)
def test_how_often_texts_are_kept(settings, prompts, rate, kept):
    config = AccessLogConfig(prompts=prompts, sample_rate=rate, max_text_bytes=10)
    writer = AccessLog(config, settings)
    wanted = [writer.text_bytes() for _ in range(100)]
    assert len([size for size in wanted if size > 10]) == kept

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cluster.storage import Storage
from serve_apps.access_log import files
from serve_apps.access_log.settler import Settler
from serve_apps.access_log.spool import Spool
from tests.serve_apps.access_log.samples import lines, row


def spooled(directory, name, *rows) -> Spool:
    spool = Spool(directory, name)
    spool.append(lines(*rows))
    return spool


def today(**given):
    return row(at=datetime.now(UTC), **given)


def test_complete_spools_become_parquet_and_living_ones_stay(storage, tmp_path):
    directory = tmp_path / "spool"
    spooled(directory, "dead-0", today()).close()
    spooled(directory, "dead-1", today(version="v2")).close()
    living = spooled(directory, "living-0", today())
    Settler(directory, storage, 30).settle()
    assert sorted(path.rsplit("/", 1)[1] for path in storage.list_files(files.FOLDER)) == [
        "dead-0.parquet",
        "dead-1.parquet",
    ]
    assert [file.name for file in directory.iterdir()] == ["living-0.jsonl"]
    living.close()


def test_a_storage_that_refuses_keeps_the_spools_is_named_once_and_tried_less_often(tmp_path, caplog):
    directory, root = tmp_path / "spool", tmp_path / "root"
    root.write_text("a file where the folder should be")
    spooled(directory, "gw-0", today()).close()
    settler = Settler(directory, Storage(str(root)), 30)
    pauses = [settler.settle() for _ in range(9)]
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert len([line for line in caplog.records if "stays on the local disk" in line.message]) == 1
    assert (directory / "gw-0.jsonl").exists()
    root.unlink()
    assert settler.settle() == 1
    assert len(Storage(str(root)).list_files(files.FOLDER)) == 1
    assert list(directory.iterdir()) == []


def test_old_days_go_when_a_day_begins(storage, tmp_path):
    old = datetime.now(UTC) - timedelta(days=9)
    files.store(storage, "gw", lines(row(at=old), today()))
    Settler(tmp_path, storage, keep_days=10).settle()
    assert len(files.days(storage)) == 2
    Settler(tmp_path, storage, keep_days=3).settle()
    assert files.days(storage) == [datetime.now(UTC).date()]

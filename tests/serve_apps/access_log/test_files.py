from __future__ import annotations

from datetime import UTC, date

import msgspec
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from cluster.storage import Storage
from serve_apps.access_log import files
from tests.serve_apps.access_log.samples import NOON, lines, plain, row, rows


@given(st.lists(rows, max_size=20))
def test_a_spools_rows_are_the_rows_that_were_written(given_rows):
    found = files.read(lines(*given_rows))
    assert found.schema == files.SCHEMA
    assert found.to_pylist() == [plain(one) for one in given_rows]


@given(st.lists(rows, max_size=5), st.lists(rows, max_size=5), st.binary(max_size=40))
def test_a_damaged_line_costs_itself_alone(before, after, damage):
    junk = b"\xff\x00{" + damage.replace(b"\n", b"")
    found = files.read(lines(*before) + junk + b"\n" + lines(*after))
    assert found.to_pylist() == [plain(one) for one in (*before, *after)]


def test_a_row_of_another_release_lacks_what_it_lacks():
    whole = msgspec.to_builtins(row(1))
    del whole["continued"], whole["prompt"]
    [found] = files.read(msgspec.json.encode(whole | {"of_tomorrow": {"x": 1}}) + b"\n").to_pylist()
    assert (found["continued"], found["prompt"], found["request_id"]) == (None, None, "r1")


def test_each_day_and_version_has_its_file_and_a_second_time_changes_nothing(storage):
    given_rows = [
        row(1, prompt="p", answer="ä"),
        row(2, version="v2"),
        row(3, model="none", version="none"),
        row(-13 * 3600),
    ]
    for _ in range(2):
        files.store(storage, "gw-000001", lines(*given_rows))
        assert storage.list_files("logs/access") == [
            "day=2026-11-21/model=m/version=v1/gw-000001.parquet",
            "day=2026-11-22/model=m/version=v1/gw-000001.parquet",
            "day=2026-11-22/model=m/version=v2/gw-000001.parquet",
            "day=2026-11-22/model=none/version=none/gw-000001.parquet",
        ]
    assert files.days(storage) == [date(2026, 11, 21), date(2026, 11, 22)]
    day = date(2026, 11, 22)
    assert files.files_of(storage, day, "m", "v2") == [
        "logs/access/day=2026-11-22/model=m/version=v2/gw-000001.parquet"
    ]
    assert len(files.files_of(storage, day, "m", None)) == 2
    assert len(files.files_of(storage, day, None, "v1")) == 1
    assert len(files.files_of(storage, day, None, None)) == 3


def test_other_programs_read_it_as_a_hive_of_parquet(tmp_path):
    files.store(Storage(str(tmp_path)), "gw", lines(row(1), row(2, version="v2", status=503)))
    found = ds.dataset(tmp_path / "logs" / "access", partitioning="hive").to_table().to_pylist()
    assert {(one["model"], one["version"], one["status"]) for one in found} == {
        ("m", "v1", 200),
        ("m", "v2", 503),
    }
    one = pq.read_schema(tmp_path / "logs/access/day=2026-11-22/model=m/version=v1/gw.parquet")
    assert set(files.SCHEMA.names) - set(one.names) == {"model", "version"}


def test_days_before_the_first_that_is_kept_are_removed(storage):
    for day in (-2, -1, 0):
        files.store(storage, "gw", lines(row(day * 86400)))
    storage.write_atomic("logs/access/notes/mine.txt", b"kept")
    files.remove_days_before(storage, date(2026, 11, 21))
    assert files.days(storage) == [date(2026, 11, 21), date(2026, 11, 22)]
    assert storage.exists("logs/access/notes/mine.txt")


def test_a_killed_writers_half_file_is_no_file(tmp_path):
    storage = Storage(str(tmp_path))
    files.store(storage, "gw", lines(row(1)))
    folder = tmp_path / "logs/access/day=2026-11-22/model=m/version=v1"
    (folder / ".gw-2.parquet.abc.tmp").write_bytes(b"PAR1")
    assert len(files.files_of(storage, NOON.astimezone(UTC).date(), None, None)) == 1


def test_the_longest_line_that_the_settings_allow_is_read_whole():
    # Each byte of a text may take six in JSON.
    text = "\x01" * 65536
    found = files.read(lines(row(1, prompt=text, answer=text), row(2))).to_pylist()
    assert [one["prompt"] for one in found] == [text, None]

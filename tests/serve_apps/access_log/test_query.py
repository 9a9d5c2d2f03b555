from __future__ import annotations

from datetime import UTC, date, timedelta

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cluster.errors import IntegrityError, UsageError
from cluster.storage import Storage
from serve_apps.access_log import files
from serve_apps.access_log.query import AccessLogs, Wanted
from serve_apps.access_log.spool import Spool, complete
from tests.serve_apps.access_log.samples import NOON, lines, plain, row, rows

TIMES = st.none() | st.integers(-3, 2).map(lambda days: NOON + timedelta(days=days))
wanted = st.builds(
    Wanted,
    model=st.sampled_from([None, "m", "n", "none"]),
    version=st.sampled_from([None, "v1", "v1.2.0-canary"]),
    since=TIMES,
    until=TIMES,
    status=st.sampled_from(["", "200", "404", "4xx", "5xx", "1xx"]),
    request_id=st.sampled_from(["", "a", "c.d-e_f"]),
    key=st.sampled_from(["", "1", "12", "12ab", "9"]),
)


def fits(asked: Wanted, one) -> bool:
    return all(
        [
            asked.model in (None, one.model),
            asked.version in (None, one.version),
            asked.since is None or one.at >= asked.since,
            asked.until is None or one.at < asked.until,
            not asked.status or str(one.status) == asked.status or f"{one.status // 100}xx" == asked.status,
            asked.request_id in ("", one.request_id),
            one.key_hash.startswith(asked.key),
        ]
    )


@hypothesis_settings(max_examples=50)
@given(st.lists(rows, max_size=12), st.integers(0, 12), wanted, st.integers(1, 12))
def test_it_finds_what_a_filter_by_hand_finds(tmp_path_factory, given_rows, spooled, asked, limit):
    home = tmp_path_factory.mktemp("home")
    storage = Storage(str(home))
    spool = Spool(home / "spool", "living-0")
    spool.append(lines(*given_rows[:spooled]))
    files.store(storage, "settled-0", lines(*given_rows[spooled:]))
    logs = AccessLogs(storage, home / "spool")
    found = logs.newest(asked, limit).to_pylist()
    expected = sorted((one for one in given_rows if fits(asked, one)), key=lambda one: one.at, reverse=True)
    assert [one["at"] for one in found] == [one.at for one in expected[:limit]]
    assert all(one in [plain(other) for other in expected] for one in found)
    assert logs.models() == sorted({one.model for one in given_rows})
    spool.close()


def test_it_reads_what_the_question_needs_and_no_more(storage, tmp_path):
    for day in (0, 1, 2):
        for version in ("v1", "v2"):
            one = row(-86400 * day, version=version, request_id=f"{version}-{day}")
            files.store(storage, f"gw-{day}", lines(one))
    damaged = [
        "logs/access/day=2026-11-20/model=m/version=v1/gw-2.parquet",
        "logs/access/day=2026-11-22/model=m/version=v2/gw-0.parquet",
    ]
    for path in damaged:
        storage.write_atomic(path, b"no Parquet")
    logs = AccessLogs(storage, tmp_path / "spool")

    def ids(limit=100, **asked):
        return logs.newest(Wanted(**asked), limit)["request_id"].to_pylist()

    assert ids(model="m", version="v1", limit=2) == ["v1-0", "v1-1"]
    assert ids(model="m", version="v1", since=NOON - timedelta(hours=30)) == ["v1-0", "v1-1"]
    assert ids(version="v2", until=NOON - timedelta(hours=13)) == ["v2-1", "v2-2"]
    with pytest.raises(IntegrityError, match=r"gw-0\.parquet"):
        ids(model="m")


def test_a_spool_that_is_settled_meanwhile_counts_once(tmp_path):
    storage = Storage(str(tmp_path))
    spool = Spool(tmp_path / "spool", "gw-0")
    spool.append(lines(row(1), row(2)))
    spool.close()
    for name, data in complete(tmp_path / "spool"):
        files.store(storage, name, data)
        # Parquet already, and not yet removed.
        found = AccessLogs(storage, tmp_path / "spool").newest(Wanted(), 10)
        assert found["request_id"].to_pylist() == ["r2", "r1"]
    found = AccessLogs(storage, tmp_path / "spool").newest(Wanted(), 10)
    assert found["request_id"].to_pylist() == ["r2", "r1"]


def test_days_that_are_covered():
    day = date(2026, 11, 22)
    assert Wanted().covers(day)
    assert Wanted(since=NOON, until=NOON + timedelta(minutes=1)).covers(day)
    assert not Wanted(since=NOON + timedelta(hours=12)).covers(day)
    assert Wanted(since=NOON + timedelta(hours=12) - timedelta(microseconds=1)).covers(day)
    assert not Wanted(until=NOON - timedelta(hours=12)).covers(day)
    assert Wanted(since=NOON.replace(hour=0).astimezone(UTC)).covers(day)


@pytest.mark.parametrize("status", ["6xx", "40", "fine", "4x4", "4040"])
def test_a_status_that_is_none(status):
    with pytest.raises(UsageError, match=status):
        Wanted(status=status)


def test_nothing_was_ever_logged(storage, tmp_path):
    logs = AccessLogs(storage, tmp_path / "nowhere")
    assert logs.newest(Wanted(), 5).num_rows == 0
    assert logs.models() == []

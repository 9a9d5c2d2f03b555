from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import UsageError
from serve_apps.access_log.times import parse_time

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("15m", NOW - timedelta(minutes=15)),
        ("1.5h", NOW - timedelta(minutes=90)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-11-21", datetime(2026, 11, 21, tzinfo=UTC)),
        ("2026-11-21T10:30", datetime(2026, 11, 21, 10, 30, tzinfo=UTC)),
        ("2026-11-21T10:30:00+01:00", datetime(2026, 11, 21, 9, 30, tzinfo=UTC)),
        ("2026-11-21T10:30:00Z", datetime(2026, 11, 21, 10, 30, tzinfo=UTC)),
    ],
)
def test_times(text, time):
    assert parse_time(text, NOW) == time


@given(st.datetimes(timezones=st.just(UTC), min_value=datetime(1000, 1, 1)))
def test_an_iso_time_is_itself(time):
    assert parse_time(time.isoformat(), NOW) == time


@pytest.mark.parametrize(
    "text", ["", "m", "15", "-5m", "999999999d", "yesterday", "1h30m", "0001-01-01T00:00+14:00"]
)
def test_anything_else_is_a_usage_error(text):
    with pytest.raises(UsageError, match="is not a time"):
        parse_time(text, NOW)


@given(st.text())
def test_no_text_breaks_it(text):
    with suppress(UsageError):
        assert parse_time(text, NOW).tzinfo == UTC

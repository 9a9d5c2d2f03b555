from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.access_log.files import read
from serve_apps.access_log.summary import COLUMNS, for_people, summarize
from tests.serve_apps.access_log.samples import lines, row, rows


def tables(*parts):
    return [read(lines(*part)).select(COLUMNS) for part in parts]


def test_the_numbers_of_each_version():
    v1 = [
        row(n, ttft_s=n / 10, e2e_s=2.0, completion_tokens=n, retries=n % 2, continued=int(n == 1))
        for n in range(1, 101)
    ]
    v2 = [row(1, version="v2", status=503, error_code="no_replica"), row(2, version="v2", status=499)]
    first, second = summarize(tables(v1[:50], [*v2, *v1[50:]]))
    assert first == {
        "model": "m",
        "version": "v1",
        "requests": 100,
        "error_share": 0.0,
        "ttft_s": {"p50": 5.05, "p95": 9.505, "p99": 9.901},
        "e2e_s": {"p50": 2.0, "p95": 2.0, "p99": 2.0},
        "tokens_per_s": {"p50": 25.25, "p95": 2.975, "p99": 0.995},
        "retries": 50,
        "continued": 1,
    }
    assert (second["requests"], second["error_share"]) == (2, 0.5)
    assert second["ttft_s"] == {"p50": None, "p95": None, "p99": None}


def test_what_counts_as_a_versions_error():
    def share(**given):
        return summarize(tables([row(1, **given)]))[0]["error_share"]

    assert share(status=500) == share(status=503, error_code="no_replica") == 1
    assert share(status=200, error_code="stream_broken") == 1
    assert share(status=200) == share(status=404, error_code="model_not_found") == share(status=499) == 0


@given(st.lists(rows, min_size=1, max_size=30))
def test_percentiles_are_numpys(given_rows):
    found = summarize(tables(given_rows))
    assert sum(one["requests"] for one in found) == len(given_rows)
    for one in found:
        here = [r for r in given_rows if (r.model, r.version) == (one["model"], one["version"])]
        times = [r.e2e_s for r in here]
        assert list(one["e2e_s"].values()) == pytest.approx(
            list(np.quantile(times, [0.5, 0.95, 0.99])), abs=1e-6
        )
        assert one["retries"] == sum(r.retries for r in here)


def test_no_rows_no_numbers():
    assert summarize([]) == summarize(tables([])) == []


def test_a_line_for_people():
    [one] = summarize(tables([row(1, ttft_s=0.1234567, e2e_s=2.0), row(2, status=500)]))
    shown = for_people(one)
    assert (shown["error_share"], shown["ttft_s"]) == ("50.00%", "0.123 / 0.123 / 0.123")
    assert shown["tokens_per_s"] == "- / - / -"

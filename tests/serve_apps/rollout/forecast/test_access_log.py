from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.state.tallies import GatewayTally
from cluster.storage import Storage
from cluster.tally import Tally
from serve_apps.access_log import files
from serve_apps.access_log.query import AccessLogs
from serve_apps.gateway.tally import Finished, TallyBuilder
from serve_apps.rollout.forecast.access_log import from_log
from serve_apps.rollout.forecast.today import Today, from_tallies
from tests.serve_apps.access_log.samples import NOON, lines, row

observed = st.builds(
    row,
    st.floats(0, 600),
    route=st.sampled_from(["/v1/chat/completions", "/v1/embeddings", "/tokenize"]),
    version=st.sampled_from(["v1", "v2"]),
    status=st.sampled_from([200, 400, 404, 499, 500, 503, 504]),
    error_code=st.sampled_from(["", "upstream_timeout", "no_replica", "upstream_failed"]),
    ttft_s=st.none() | st.floats(1e-3, 100),
    itl_s=st.none() | st.floats(1e-4, 10),
    e2e_s=st.floats(1e-3, 100),
    completion_tokens=st.none() | st.integers(0, 4096),
    finish_reason=st.sampled_from(["stop", "length"]),
    retries=st.integers(0, 1),
    continued=st.integers(0, 1),
)


def read(tmp_path, rows, now) -> Today:
    storage = Storage(str(tmp_path))
    files.store(storage, "settled-0", lines(*rows))
    return from_log(AccessLogs(storage, tmp_path / "spool"), "m", "v1", now)


def counted(rows) -> Today:
    """The same by a gateway that counted them for a judged rollout."""
    builder = TallyBuilder()
    for one in rows:
        if one.route != "/tokenize":
            builder.add(Finished(row=one, counted_as=one.version, prompt_tokens=10, spoke=True))
    tally = GatewayTally(
        gateway="g1",
        model="m",
        revision=1,
        applied_at=NOON.replace(tzinfo=None),
        seen_at=NOON.replace(tzinfo=None) + timedelta(seconds=600),
        tally=Tally.model_validate(builder.to_json()),
    )
    return from_tallies([tally], "v1")


@settings(max_examples=50, deadline=None)
@given(st.lists(observed, max_size=20))
def test_the_log_and_the_tallies_of_the_same_answers_say_the_same(tmp_path_factory, rows):
    logged = read(tmp_path_factory.mktemp("home"), rows, NOON + timedelta(seconds=600))
    tallied = counted(rows)
    assert logged.answers == tallied.answers
    if logged.answers:
        assert logged.requests == tallied.requests
        for metric, share in logged.shares.items():
            assert share == tallied.shares[metric], metric
        for metric, sketch in logged.sketches.items():
            assert sketch == tallied.sketches[metric], metric


def test_requests_a_second_are_counted_from_the_first_one(tmp_path):
    rows = [row(second) for second in range(100)]
    found = read(tmp_path, rows, NOON + timedelta(seconds=200))
    assert found.per_second == pytest.approx(0.5)
    assert found.source == "the access log since 2026-11-22 12:00 UTC"


def test_a_burst_is_not_taken_for_what_always_comes(tmp_path):
    found = read(tmp_path, [row(0.01 * index) for index in range(60)], NOON + timedelta(seconds=1))
    assert found.per_second == 1.0


def test_what_is_older_than_a_day_or_of_another_model_does_not_count(tmp_path):
    rows = [row(0), row(3600), row(3600, model="n")]
    found = read(tmp_path, rows, NOON + timedelta(hours=24, minutes=30))
    assert (found.requests, found.answers) == (1, 1)


def test_an_empty_log_knows_nothing(tmp_path):
    assert read(tmp_path, [], NOON) == Today()

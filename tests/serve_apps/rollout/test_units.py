from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.config import StrictModel, validate
from cluster.errors import ConfigError
from serve_apps.rollout.units import Duration, Latency, Points, Rate


class Written(StrictModel):
    hold: Duration = timedelta(minutes=10)
    limit: Latency = 1.0
    share: Rate = 0.01
    drop: Points = 0.05


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("hold", "500ms", timedelta(milliseconds=500)),
        ("hold", "10s", timedelta(seconds=10)),
        ("hold", "1.5h", timedelta(minutes=90)),
        ("hold", " 24 h ", timedelta(days=1)),
        ("hold", "7d", timedelta(days=7)),
        ("hold", "0s", timedelta(0)),
        ("limit", "800ms", 0.8),
        ("limit", "1.5s", 1.5),
        ("limit", "2m", 120.0),
        ("share", "2%", 0.02),
        ("share", "0.07%", 0.0007),
        ("share", "100%", 1.0),
        ("drop", "5 points", 0.05),
        ("drop", "1 point", 0.01),
        ("drop", "0.5points", 0.005),
    ],
)
def test_what_people_write_is_read_in_seconds_and_shares(key, text, value):
    assert getattr(Written.model_validate({key: text}), key) == value


@pytest.mark.parametrize(
    ("key", "given", "said"),
    [
        ("hold", 600, "the unit is missing (d, h, m, s, ms); write it such as 30s, 10m or 24h"),
        ("hold", "600", "the unit is missing"),
        ("hold", "1.5", "the unit is missing"),
        ("limit", 0.8, "the unit is missing (m, s, ms); write it such as 800ms or 1.5s"),
        ("share", 0.02, "the unit is missing (%); write it such as 2% or 0.5%"),
        ("drop", 5, "the unit is missing (points, point); write it such as 5 points"),
        ("hold", True, "a duration is text"),
        ("hold", None, "a duration is text"),
        ("hold", "10 minutes", "this is no duration in d, h, m, s, ms"),
        ("hold", "1h30m", "this is no duration"),
        ("hold", "-5s", "this is no duration"),
        ("hold", "1e3s", "this is no duration"),
        ("hold", "", "this is no duration"),
        ("hold", "9999999d", "this is more than 3650d"),
        ("limit", "2%", "this is no latency"),
        ("share", "800ms", "this is no rate"),
        ("share", "101%", "this is more than 100%"),
        ("drop", "5%", "this is no number in points"),
        ("drop", "101 points", "this is more than 100 points"),
    ],
)
def test_what_has_no_unit_or_another_is_refused_with_the_unit_that_fits(key, given, said):
    with pytest.raises(ConfigError) as caught:
        validate({key: given}, Written, source="canary.yaml")
    assert f"`{key}` is {given!r}" in caught.value.message
    assert said in caught.value.message


@given(
    hold=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=3650)),
    limit=st.floats(min_value=0, max_value=86400),
    share=st.floats(min_value=0, max_value=1),
    drop=st.floats(min_value=0, max_value=1),
)
def test_what_is_stored_reads_again_to_the_same_bit(hold, limit, share, drop):
    written = Written(hold=hold).model_copy(update={"limit": limit, "share": share, "drop": drop})
    assert Written.model_validate_json(written.model_dump_json()) == written
    assert Written.model_validate(written.model_dump()) == written


def test_it_is_written_as_people_would():
    written = Written.model_validate({"hold": "600s", "limit": "0.8s", "share": "2.0%", "drop": "5points"})
    assert written.model_dump() == {"hold": "10m", "limit": "800ms", "share": "2%", "drop": "5 points"}


def test_numbers_of_the_code_itself_are_no_exception():
    with pytest.raises(ValidationError, match="the unit is missing"):
        Written(share=0.02)

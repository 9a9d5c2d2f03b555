from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError, NotFoundError
from cluster.storage import Storage
from serve_apps.rollout.outside.config import QualityGate
from serve_apps.rollout.outside.quality import held_out
from serve_apps.rollout.outside.quality.held_out import HeldOut, read_held_out, split_location
from tests.support.s3 import s3_root

DATA = b'{"prompt": "2 + 2?", "answer": "4"}\n{"prompt": "3 + 3?", "answer": "6"}\n'


def gate(location, **given):
    return QualityGate.model_validate({"data": str(location), "max_drop": "5 points"} | given)


def made(rows: int) -> HeldOut:
    data = b"\n".join(json.dumps({"prompt": str(row), "answer": "x"}).encode() for row in range(rows))
    return HeldOut(held_out.read_rows(data, "set", gate("s").scorer, has_judge=False), "0" * 64)


def indices(found: HeldOut, *round_) -> list[int]:
    return [question.index for question in found.part(*round_).questions]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_set_is_read_from_a_path_with_its_digest(tmp_path, scheme):
    (tmp_path / "set.jsonl").write_bytes(DATA)
    found = read_held_out(gate(f"{scheme}{tmp_path}/set.jsonl"))
    assert [question.answers for question in found.questions] == [("4",), ("6",)]
    assert found.sha256 == hashlib.sha256(DATA).hexdigest()


def test_a_path_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set.jsonl").write_bytes(DATA)
    assert len(read_held_out(gate("set.jsonl")).questions) == 2


def test_a_set_is_read_from_s3(monkeypatch):
    with s3_root(monkeypatch) as url:
        Storage(url).write_atomic("held/set.jsonl", DATA)
        path, _, query = url.partition("?")
        assert len(read_held_out(gate(f"{path}/held/set.jsonl?{query}")).questions) == 2


@pytest.mark.parametrize(
    ("location", "root", "name"),
    [
        ("set.jsonl", ".", "set.jsonl"),
        ("/set.jsonl", "/", "set.jsonl"),
        ("/data/a?b/set.jsonl", "/data/a?b", "set.jsonl"),
        ("s3://bucket/set.jsonl?region=eu", "s3://bucket?region=eu", "set.jsonl"),
        ("s3://bucket/p/set.jsonl", "s3://bucket/p", "set.jsonl"),
    ],
)
def test_a_location_is_a_root_and_a_name(location, root, name):
    assert split_location(location) == (root, name)


@pytest.mark.parametrize("location", ["/data/", "s3://bucket", "s3://bucket/?region=eu"])
def test_a_location_without_a_file_is_refused(location):
    with pytest.raises(ConfigError, match="names no file"):
        split_location(location)


def test_a_set_that_is_not_there_is_told(tmp_path):
    with pytest.raises(NotFoundError, match=r"There is no `set\.jsonl`"):
        read_held_out(gate(tmp_path / "set.jsonl"))


def test_a_set_beyond_all_measure_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(held_out, "LARGEST", len(DATA) - 1)
    (tmp_path / "set.jsonl").write_bytes(DATA)
    with pytest.raises(ConfigError, match=f"has {len(DATA)} bytes"):
        read_held_out(gate(tmp_path / "set.jsonl"))


def test_a_fault_of_a_row_names_the_file_and_the_line(tmp_path):
    (tmp_path / "set.jsonl").write_bytes(DATA + b"{")
    with pytest.raises(ConfigError, match=r"`.*/set\.jsonl` has 1 rows .* line 3"):
        read_held_out(gate(tmp_path / "set.jsonl"))


@given(
    rows=st.integers(1, 40),
    sample=st.one_of(st.none(), st.integers(1, 50)),
    seed=st.integers(),
    round_=st.integers(0, 20),
)
def test_rounds_go_through_the_whole_set_before_they_repeat(rows, sample, seed, round_):
    found = made(rows)
    size = min(sample or rows, rows)
    earlier = [index for before in range(round_) for index in indices(found, before, sample, seed)]
    part = found.part(round_, sample, seed)
    now = [question.index for question in part.questions]
    assert len(set(now)) == len(now) == size
    assert part.repeated == sum(index in earlier for index in now)
    assert part.repeated == 0 or set(earlier + now) == set(range(rows))


def test_the_order_is_the_seeds_and_stays_the_same_for_ever():
    found = made(8)
    assert indices(found, 0, 4, 1) == [4, 7, 3, 0]
    assert indices(found, 0, 4, 2) != indices(found, 0, 4, 1)

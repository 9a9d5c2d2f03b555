import json

import pytest

from cluster.errors import ConfigError
from cluster.storage import Storage
from tests.train_jobs.conftest import BASE
from train_jobs.encoded import prepare
from train_jobs.encoding_task import require_usable, sentences
from train_jobs.spec import BadRows, DataSpec

PATH = "/data/train.jsonl"


@pytest.fixture
def rows(tmp_path):
    """Seven empty answers, one row that is too long, two that are fine."""
    path = tmp_path / "rows.jsonl"
    made = [{"id": f"e{n}", "prompt": "a", "completion": " "} for n in range(7)]
    made += [{"id": "long", "prompt": "a", "completion": "b" * 2000}]
    made += [{"id": f"ok{n}", "prompt": "a", "completion": "b"} for n in range(2)]
    path.write_text("\n".join(map(json.dumps, made)))
    return str(path)


@pytest.fixture
def found(spec, settings, store, rows):
    return prepare(spec, settings, BASE, rows, packing=False)


def skipping(spec):
    return spec.model_copy(update={"data": DataSpec(train="d", on_bad_rows=BadRows.SKIP)})


def test_bad_rows_stop_a_run_with_their_reasons_and_the_way_on(spec, settings, found):
    with pytest.raises(ConfigError) as caught:
        require_usable(spec, settings, PATH, found)
    error = caught.value
    assert error.code == "data.bad_rows"
    assert f"8 of the 10 rows of `{PATH}`" in error.message
    assert "7 x empty answer (e0, e1, e2, e3, e4, …); 1 x longer than 1024 tokens (long)" in error.message
    assert "`data.on_bad_rows=skip`" in error.hint
    listed = error.hint.rsplit(" ", 1)[1].rstrip(".")
    assert listed.endswith("/dropped.jsonl")


def test_every_bad_row_is_in_the_file_that_is_named(settings, found):
    text = Storage(settings.root).read_bytes(found.dropped_file).decode()
    listed = [json.loads(line) for line in text.splitlines()]
    assert {row["id"] for row in listed} == {*(f"e{n}" for n in range(7)), "long"}
    assert {row["reason"] for row in listed} == {"empty answer", "longer than 1024 tokens"}


def test_they_are_skipped_on_request_and_told_with_the_data_that_they_are_of(spec, settings, found):
    require_usable(skipping(spec), settings, PATH, found)
    told = list(sentences(found, PATH))
    assert told[0] == f"dropped 7 rows of {PATH}: empty answer (e0, e1, e2, e3, e4, …)"
    assert told[-1] == f"all dropped rows of {PATH} are named in {found.dropped_file}"


def test_good_rows_are_no_matter(spec, settings, store):
    good = prepare(spec, settings, BASE, spec.data.train, packing=False)
    require_usable(spec, settings, PATH, good)
    assert list(sentences(good, PATH)) == []

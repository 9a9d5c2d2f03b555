import io
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError
from train_jobs.data.json_arrays import JsonArrayError, elements
from train_jobs.data.tables import rows_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def read(text, chunk=1):
    return list(elements(io.StringIO(text), chunk=chunk))


@given(st.lists(VALUES, max_size=6), st.integers(1, 20), st.sampled_from([None, 1]), st.booleans())
def test_an_array_is_read_as_json_reads_it(values, chunk, indent, ascii_only):
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    assert read(f" {text}\n", chunk) == json.loads(text)


@given(st.text(alphabet='[]{},:"1e-. tnu', max_size=12), st.integers(1, 4))
def test_it_refuses_what_json_refuses(text, chunk):
    try:
        expected = json.loads(f"[{text}")
    except json.JSONDecodeError:
        expected = None
    if isinstance(expected, list):
        assert read(f"[{text}", chunk) == expected
    else:
        with pytest.raises(JsonArrayError):
            read(f"[{text}", chunk)


def test_memory_does_not_grow_with_the_rows(tmp_path):
    def peak(count):
        file = tmp_path / f"{count}.json"
        file.write_text(json.dumps([{"text": "x" * 1000}] * count))
        tracemalloc.start()
        assert sum(1 for _ in rows_of(file)) == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(20_000) < peak(5_000) * 1.2


def test_a_torn_file_is_named_with_its_row(tmp_path):
    file = tmp_path / "torn.json"
    file.write_text('[{"text": "a"}, {"text": "b"')
    with pytest.raises(ConfigError, match="in row 2") as caught:
        list(rows_of(file))
    assert caught.value.code == "data.unreadable"

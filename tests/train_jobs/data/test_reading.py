import csv
import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import ConfigError, NotFoundError
from train_jobs.data.formats import Format
from train_jobs.data.reading import fingerprint, iter_examples, read_examples
from train_jobs.data.records import Dropped, count_reasons

ROWS = [{"prompt": f"p{n}", "completion": f"c{n}"} for n in range(3)]


def write(path, rows):
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".json":
            path.write_text(json.dumps(rows))
        case ".csv":
            with path.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, rows[0])
                writer.writeheader()
                writer.writerows(rows)
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_the_same_rows_come_from_every_file_type(tmp_path, suffix):
    loaded = read_examples(write(tmp_path / f"a{suffix}", ROWS))
    assert loaded.format is Format.PROMPT_COMPLETION
    assert [[m.content for m in e.messages] for e in loaded.examples] == [
        ["p0", "c0"],
        ["p1", "c1"],
        ["p2", "c2"],
    ]
    assert loaded.dropped == []


def test_nested_messages_come_from_parquet(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    loaded = read_examples(write(tmp_path / "a.parquet", rows))
    assert loaded.examples[0].messages[1].content == "b"


def test_json_lines_under_the_ending_json_are_read(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS).rename(tmp_path / "a.json")
    assert len(read_examples(path).examples) == 3


def test_each_line_of_plain_text_is_an_example(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n\ntwo\n")
    loaded = read_examples(path)
    assert [example.text for example in loaded.examples] == ["one", "two"]
    assert loaded.dropped == [Dropped(1, "empty text", "a.txt", "a.txt:1")]


def test_a_directory_is_read_in_the_order_of_its_names(tmp_path):
    write(tmp_path / "b.jsonl", ROWS[1:])
    write(tmp_path / "a.csv", ROWS[:1])
    (tmp_path / "README.md").write_text("not data")
    write(tmp_path / ".hidden.jsonl", ROWS)
    assert [example.id for example in read_examples(tmp_path).examples] == [
        "a.csv:0",
        "b.jsonl:0",
        "b.jsonl:1",
    ]


def test_a_directory_of_splits_is_not_read_as_one(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.jsonl", ROWS)
    with pytest.raises(ConfigError, match="test, train") as caught:
        read_examples(tmp_path)
    assert str(tmp_path / "test.jsonl") in caught.value.hint


def test_files_of_different_formats_are_refused(tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    write(tmp_path / "b.jsonl", [{"text": "x"}])
    with pytest.raises(ConfigError, match=r"b\.jsonl` is text.*a\.jsonl` is prompt-completion"):
        read_examples(tmp_path)


def test_bad_rows_are_counted_by_reason_and_the_rest_is_used(tmp_path):
    path = tmp_path / "a.jsonl"
    good = json.dumps(ROWS[0])
    path.write_text(
        f'{good}\n{{"prompt": "x", "completion": ""}}\n{{"prompt": "x"}}\n[1]\n{good[:9]}\n{good}\n'
    )
    loaded = read_examples(path)
    assert [example.index for example in loaded.examples] == [0, 5]
    assert count_reasons(loaded.dropped) == {
        "empty answer": 1,
        "no value in `completion`": 1,
        "not a JSON object": 1,
        "not valid JSON": 1,
    }


def test_short_and_long_rows_of_csv_are_dropped(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,completion\na,"b\nb"\nc\nd,e,f\n')
    loaded = read_examples(path)
    assert [example.messages[1].content for example in loaded.examples] == ["b\nb"]
    assert [row.reason for row in loaded.dropped] == ["no value in `completion`", "more values than columns"]


def test_a_missing_column_names_the_columns_found(tmp_path):
    with pytest.raises(ConfigError, match="prompt, reply") as caught:
        read_examples(write(tmp_path / "a.jsonl", [{"prompt": "a", "reply": "b"}]))
    assert caught.value.code == "data.unknown_format"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_dataset_without_a_usable_row_is_an_error(tmp_path, suffix):
    rows = [{"prompt": "a", "completion": ""}] * 2
    with pytest.raises(ConfigError, match="2 x empty answer") as caught:
        read_examples(write(tmp_path / f"a{suffix}", rows))
    assert caught.value.code == "data.no_rows"


@pytest.mark.parametrize(("content", "said"), [("", "it is empty"), ("{nope\n", "1 x not valid JSON")])
def test_a_file_of_nothing_says_so(tmp_path, content, said):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=said):
        read_examples(path)


@pytest.mark.parametrize("suffix", [".parquet", ".json", ".jsonl", ".csv", ".txt"])
def test_a_file_that_is_not_what_its_name_says_is_an_error(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"[\xff\xfe not any of these")
    with pytest.raises(ConfigError) as caught:
        read_examples(path)
    assert caught.value.code == "data.unreadable"
    assert str(path) in caught.value.message


def test_a_truncated_parquet_file_is_an_error(tmp_path):
    path = write(tmp_path / "a.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="cannot be read as parquet"):
        read_examples(path)


def test_a_missing_path_and_an_unknown_ending(tmp_path):
    with pytest.raises(NotFoundError):
        read_examples(tmp_path / "absent.jsonl")
    (tmp_path / "a.xml").write_text("<a/>")
    with pytest.raises(ConfigError, match=r"`\.xml`"):
        read_examples(tmp_path / "a.xml")
    with pytest.raises(ConfigError, match="holds no data file"):
        read_examples(tmp_path)


def test_rows_are_read_one_at_a_time(tmp_path):
    path = tmp_path / "a.jsonl"
    write(path, [{"text": "first"}, {"text": "x" * 100_000}])
    path.write_bytes(path.read_bytes() + b"\xff\n")
    rows = iter_examples(path, Format.TEXT)
    assert next(rows).text == "first"
    with pytest.raises(ConfigError, match="cannot be read as jsonl"):
        list(rows)


def test_the_fingerprint_is_that_of_the_bytes(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    assert fingerprint(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_fingerprint_of_a_directory_sees_every_file(tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    write(tmp_path / "b.jsonl", ROWS)
    before = fingerprint(tmp_path)
    assert before == fingerprint(tmp_path)
    write(tmp_path / "b.jsonl", ROWS[:2])
    assert fingerprint(tmp_path) != before

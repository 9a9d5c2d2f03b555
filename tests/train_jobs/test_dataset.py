import numpy as np
import pytest

from cluster.errors import ConfigError
from train_jobs.data.records import Encoded
from train_jobs.dataset import load_packed, pack


def test_samples_come_back_as_they_went_in():
    rows = [Encoded("a", [5, 6, 7], [-100, 6, 7]), Encoded("b", [8], [8]), Encoded("c", [9, 9], [-100, 9])]
    packed = pack(rows, fingerprint="f", dropped={})
    assert len(packed) == 3
    for index, row in enumerate(rows):
        ids, labels = packed.sample(index)
        assert (list(ids), list(labels)) == (row.input_ids, row.labels)
    assert packed.lengths([0, 2]) == 5


def test_a_label_that_nothing_predicts_does_not_count():
    packed = pack([Encoded("a", [5, 6], [5, 6]), Encoded("b", [7], [7])], fingerprint="f", dropped={})
    assert list(packed.answers) == [1, 0]
    assert packed.answer_tokens([0, 0, 1]) == 2


def test_a_file_is_encoded_with_loss_on_answers_only(data_file, tiny_dir):
    packed = load_packed(str(data_file), tiny_dir, max_length=512)
    ids, labels = packed.sample(0)
    assert len(packed) == 64
    assert packed.dropped == {}
    trained = labels[labels != -100]
    assert 0 < len(trained) < len(ids) / 2
    assert np.array_equal(trained, ids[labels != -100])


def test_a_dataset_without_a_usable_row_is_refused(tmp_path, tiny_dir):
    path = tmp_path / "empty.jsonl"
    path.write_text('{"prompt": "a", "completion": ""}\n')
    with pytest.raises(ConfigError):
        load_packed(str(path), tiny_dir, max_length=64)

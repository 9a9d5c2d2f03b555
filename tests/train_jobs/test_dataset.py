import json
import pickle

import numpy as np
import pytest

from cluster.errors import ConfigError
from train_jobs.dataset import PackedDataset, PairDataset, load_dataset, load_packed, load_pairs
from train_jobs.spec import Method


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def pair_file(tmp_path):
    rows = [
        {"id": "first", "prompt": "Good?", "chosen": "yes", "rejected": "never"},
        {"id": "alone", "prompt": "Good?", "chosen": "yes"},
        {"id": "long", "prompt": "Good?", "chosen": "yes", "rejected": "n" * 300},
        {"id": "second", "prompt": "Well?", "chosen": "very", "rejected": "no"},
    ]
    return write(tmp_path / "pairs.jsonl", rows)


def test_the_rows_come_back_in_order_with_their_ids(tmp_path, tiny_dir):
    texts = [f"{'w' * (number % 7 + 1)} {number}" for number in range(600)]
    rows = [{"id": f"zeile-ä-{number}", "text": text} for number, text in enumerate(texts)]
    packed = load_packed(write(tmp_path / "a.jsonl", rows), tiny_dir, max_length=64)
    assert len(packed) == len(packed.ids) == 600
    assert (packed.ids[3], packed.ids[-1], packed.ids[1:3]) == (
        "zeile-ä-3",
        "zeile-ä-599",
        ["zeile-ä-1", "zeile-ä-2"],
    )
    with pytest.raises(IndexError):
        packed.ids[600]
    for index in (0, 255, 256, 599):
        ids, labels = packed.sample(index)
        # A byte a token, and one that ends the text; all of it is trained on.
        assert len(ids) == len(texts[index]) + 1
        assert list(ids) == list(labels)
    assert packed.lengths([0, 255]) == len(texts[0]) + len(texts[255]) + 2


def test_a_label_that_nothing_predicts_does_not_count(tmp_path, tiny_dir):
    packed = load_packed(write(tmp_path / "a.jsonl", [{"text": "ab"}, {"text": "c"}]), tiny_dir, 64)
    assert list(packed.answers) == [2, 1]
    assert packed.answer_tokens([0, 0, 1]) == 5


def test_an_id_may_hold_half_of_a_surrogate_pair(tmp_path, tiny_dir):
    packed = load_packed(write(tmp_path / "a.jsonl", [{"id": "\ud800", "text": "ab"}]), tiny_dir, 64)
    assert packed.ids[0] == "\ud800"


def test_a_dataset_can_be_sent_to_another_process(tmp_path, tiny_dir):
    packed = load_packed(write(tmp_path / "a.jsonl", [{"id": "x", "text": "ab"}]), tiny_dir, 64)
    again = pickle.loads(pickle.dumps(packed))
    assert (again.ids[0], list(again.sample(0)[0])) == ("x", list(packed.sample(0)[0]))


def test_a_file_is_encoded_with_loss_on_answers_only(data_file, tiny_dir):
    packed = load_packed(str(data_file), tiny_dir, max_length=512)
    ids, labels = packed.sample(0)
    assert len(packed) == 64
    assert packed.dropped == {}
    trained = labels[labels != -100]
    assert 0 < len(trained) < len(ids) / 2
    assert np.array_equal(trained, ids[labels != -100])


def test_rows_that_are_not_used_are_counted_and_named(tmp_path, tiny_dir):
    rows = [
        {"id": "kept", "prompt": "a", "completion": "b"},
        {"id": "empty", "prompt": "a", "completion": ""},
        {"id": "long", "prompt": "a" * 500, "completion": "b"},
        {"prompt": "a" * 500, "completion": "b"},
    ]
    packed = load_packed(write(tmp_path / "a.jsonl", rows), tiny_dir, max_length=200)
    assert list(packed.ids) == ["kept"]
    assert packed.dropped == {"longer than 200 tokens": 2, "empty answer": 1}
    assert packed.dropped_ids == {"longer than 200 tokens": ["long", "a.jsonl:3"], "empty answer": ["empty"]}


@pytest.mark.parametrize(
    ("load", "row"),
    [
        (load_packed, {"prompt": "a", "completion": ""}),
        (load_packed, {"prompt": "a", "completion": "b" * 70}),
        (load_pairs, {"prompt": "a", "chosen": "b", "rejected": "b"}),
        (load_pairs, {"prompt": "a", "chosen": "b", "rejected": "b" * 70}),
    ],
)
def test_a_dataset_without_a_usable_row_is_refused(tmp_path, tiny_dir, load, row):
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path / "empty.jsonl", [row]), tiny_dir, max_length=64)
    assert caught.value.code == "data.no_rows"


def test_pairs_are_packed_side_by_side(pair_file, tiny_dir):
    pairs = load_pairs(pair_file, tiny_dir, max_length=200)
    assert len(pairs) == 2
    assert list(pairs.ids) == list(pairs.rejected.ids) == ["first", "second"]
    assert pairs.dropped == {"no value in `rejected`": 1, "longer than 200 tokens": 1}
    assert sorted(pairs.dropped_ids.values()) == [["alone"], ["long"]]
    (chosen, good), (rejected, bad) = pairs.chosen.sample(0), pairs.rejected.sample(0)
    begin = int((good != -100).argmax())
    assert np.array_equal(chosen[:begin], rejected[:begin])
    assert (bad[:begin] == -100).all()
    # The letters of the answer and the token that ends the turn.
    assert ((good != -100).sum(), (bad != -100).sum()) == (len("yes") + 1, len("never") + 1)
    assert pairs.lengths([0]) == len(chosen) + len(rejected)


def test_the_method_chooses_what_is_loaded(data_file, pair_file, tiny_dir, spec):
    dpo = spec.model_copy(update={"method": Method.DPO})
    assert isinstance(load_dataset(spec, tiny_dir, str(data_file)), PackedDataset)
    assert isinstance(load_dataset(dpo, tiny_dir, pair_file), PairDataset)


def test_data_of_another_method_are_refused_by_name(data_file, pair_file, tiny_dir, spec):
    dpo = spec.model_copy(update={"method": Method.DPO})
    for given, path, found, accepted in [
        (spec, pair_file, "preferences", "prompt-completion"),
        (dpo, str(data_file), "messages", "preferences"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load_dataset(given, tiny_dir, path)
        assert caught.value.code == "data.format_for_method"
        assert f"the format {found}, which the method {given.method} cannot" in caught.value.message
        assert accepted in caught.value.hint


def test_a_file_with_answers_and_preferences_serves_both_methods(tmp_path, tiny_dir):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = write(
        tmp_path / "both.jsonl", [{"messages": turns, "prompt": "a", "chosen": "b", "rejected": "c"}]
    )
    assert len(load_packed(path, tiny_dir, 200)) == len(load_pairs(path, tiny_dir, 200)) == 1

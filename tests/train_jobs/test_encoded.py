import json
import multiprocessing
import os
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.errors import ConflictError, IntegrityError, NotFoundError, StorageError
from cluster.manifest import VersionKind
from cluster.registry import ModelStore
from cluster.storage import Storage
from cluster.store.staging import staging_name
from tests.support.s3 import s3_root
from tests.train_jobs.conftest import BASE
from train_jobs import encoded, encoded_uses, encoding
from train_jobs.dataset import load_packed
from train_jobs.encoded import open_encoded, prepare
from train_jobs.encoding import Way, encode_into
from train_jobs.spec import Method


@pytest.fixture
def made(spec, settings, store):
    return prepare(spec, settings, BASE, spec.data.train, packing=False)


@pytest.fixture
def count_encodings(monkeypatch):
    calls = []
    real = encoded.encode_into
    monkeypatch.setattr(encoded, "encode_into", lambda *given: calls.append(1) or real(*given))
    return calls


def directory(settings, found) -> Path:
    return Path(settings.root) / "encoded" / found.key


def flip_a_bit(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(bytes(raw))


def same(left, right) -> bool:
    return list(left.ids) == list(right.ids) and all(
        list(a) == list(b)
        for i in range(len(left))
        for a, b in zip(left.sample(i), right.sample(i), strict=True)
    )


def test_what_is_mapped_is_what_was_encoded(made, settings, spec, tiny_dir):
    mapped = open_encoded(made, settings)
    assert (made.rows, made.samples, len(mapped)) == (64, 64, 64)
    assert same(mapped, load_packed(spec.data.train, tiny_dir, spec.max_length))


def test_the_longest_sample_is_told(made, settings, spec, store):
    mapped = open_encoded(made, settings)
    assert made.longest.tokens == max(mapped.lengths([place]) for place in range(len(mapped)))
    assert made.longest.answers == max(mapped.answer_tokens([place]) for place in range(len(mapped)))
    packed = prepare(spec, settings, BASE, spec.data.train, packing=True)
    packs = open_encoded(packed, settings)
    assert packed.longest.tokens == max(packs.lengths([place]) for place in range(len(packs)))
    assert packed.longest.answers == max(packs.answer_tokens([place]) for place in range(len(packs)))
    assert packed.longest.tokens > made.longest.tokens


def test_it_is_made_once(made, settings, spec, count_encodings):
    assert prepare(spec, settings, BASE, spec.data.train, packing=False) == made
    other = spec.model_copy(update={"run": "other", "learning_rate": 1.0, "seed": 7})
    assert prepare(other, settings, BASE, spec.data.train, packing=False) == made
    assert count_encodings == []


def test_all_that_its_bytes_follow_from_makes_another(made, settings, spec, tmp_path):
    keys = {made.key}

    def add(given, packing=False, path=spec.data.train):
        keys.add(prepare(given, settings, BASE, path, packing=packing).key)

    add(spec.model_copy(update={"max_length": 512}))
    add(spec, packing=True)
    add(spec.model_copy(update={"seed": 1}), packing=True)
    renamed = tmp_path / "renamed.jsonl"
    renamed.write_bytes(Path(spec.data.train).read_bytes())
    add(spec, path=str(renamed))
    renamed.write_bytes(renamed.read_bytes() + b"\n")
    add(spec, path=str(renamed))
    assert len(keys) == 6


def test_a_run_that_goes_on_notices_other_packs(made, settings, spec):
    def fingerprint(seed):
        given = spec.model_copy(update={"seed": seed})
        found = prepare(given, settings, BASE, spec.data.train, packing=True)
        return open_encoded(found, settings).fingerprint

    assert fingerprint(1) == fingerprint(1)
    assert len({fingerprint(1), fingerprint(2), open_encoded(made, settings).fingerprint}) == 3


def test_another_tokenizer_makes_another(made, settings, spec, store, tiny_dir, tmp_path):
    source = tmp_path / "changed"
    source.mkdir()
    for file in tiny_dir.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    template = source / "chat_template.jinja"
    template.write_text(template.read_text() + "{# changed #}")
    changed = BASE.model_copy(update={"version": "v2"})
    store.publish(source, changed, kind=VersionKind.BASE, source_label="tests")
    assert prepare(spec, settings, changed, spec.data.train, packing=False).key != made.key


@pytest.mark.parametrize("name", ["input_ids.bin", "labels.bin", "offsets.bin", "ids.bin"])
def test_one_with_a_flipped_bit_is_made_again(made, settings, spec, count_encodings, name):
    flip_a_bit(directory(settings, made) / name)
    assert prepare(spec, settings, BASE, spec.data.train, packing=False) == made
    assert count_encodings == [1]
    assert list(open_encoded(made, settings).sample(3)[0])


def test_a_torn_one_is_neither_opened_nor_kept(made, settings, spec, count_encodings):
    labels = directory(settings, made) / "labels.bin"
    os.truncate(labels, labels.stat().st_size - 4)
    with pytest.raises(IntegrityError, match=r"labels\.bin") as caught:
        open_encoded(made, settings)
    assert caught.value.code == "data.encoding_damaged"
    prepare(spec, settings, BASE, spec.data.train, packing=False)
    assert len(open_encoded(made, settings)) == 64
    assert count_encodings == [1]


@pytest.mark.parametrize("text", ["", "{", '{"files": {}}'])
def test_one_whose_manifest_does_not_read_is_made_again(made, settings, spec, count_encodings, text):
    (directory(settings, made) / "manifest.json").write_text(text)
    with pytest.raises(IntegrityError):
        open_encoded(made, settings)
    prepare(spec, settings, BASE, spec.data.train, packing=False)
    assert (len(open_encoded(made, settings)), count_encodings) == (64, [1])


def test_the_files_of_another_do_not_pass_for_it(made, settings, spec, count_encodings):
    other = prepare(spec, settings, BASE, spec.data.train, packing=True)
    count_encodings.clear()
    packed, plain = directory(settings, other), directory(settings, made)
    for file in plain.iterdir():
        file.unlink()
    for file in packed.iterdir():
        (plain / file.name).write_bytes(file.read_bytes())
    with pytest.raises(IntegrityError, match="of another one"):
        open_encoded(made, settings)
    prepare(spec, settings, BASE, spec.data.train, packing=False)
    assert (len(open_encoded(made, settings)), count_encodings) == (64, [1])


def test_one_that_is_gone_says_what_to_do(made, settings):
    Storage(settings.root).delete_dir(f"encoded/{made.key}")
    with pytest.raises(NotFoundError) as caught:
        open_encoded(made, settings)
    assert (caught.value.code, "same command" in caught.value.hint) == ("data.encoding_gone", True)


def test_what_is_mapped_outlives_its_replacement(made, settings, spec):
    mapped = open_encoded(made, settings)
    before = [list(mapped.sample(i)[0]) for i in range(64)]
    (directory(settings, made) / "manifest.json").unlink()
    prepare(spec, settings, BASE, spec.data.train, packing=False)
    assert [list(mapped.sample(i)[0]) for i in range(64)] == before


def test_data_that_change_while_they_are_read_leave_nothing_behind(settings, spec, store, monkeypatch):
    real = encoded.encode_into

    def meddled(*given):
        found = real(*given)
        with open(spec.data.train, "a") as file:
            file.write("\n")
        return found

    monkeypatch.setattr(encoded, "encode_into", meddled)
    with pytest.raises(ConflictError, match="changed while") as caught:
        prepare(spec, settings, BASE, spec.data.train, packing=False)
    assert caught.value.code == "data.changing"
    assert Storage(settings.root).list_dirs("encoded") == ["uses"]


def test_a_full_disk_is_told_and_leaves_nothing_behind(settings, spec, store, monkeypatch):
    def full(*_given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(encoded, "encode_into", full)
    with pytest.raises(StorageError) as caught:
        prepare(spec, settings, BASE, spec.data.train, packing=False)
    assert caught.value.code == "storage.full"
    assert Storage(settings.root).list_dirs("encoded") == ["uses"]


def _prepare_at_once(spec, settings, barrier, results):
    barrier.wait(60)
    made = prepare(spec, settings, BASE, spec.data.train, packing=True)
    mapped = open_encoded(made, settings)
    results.put((made.key, list(mapped.ids)))


def test_two_drivers_that_make_the_same_one_get_the_same(settings, spec, store):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_prepare_at_once, args=(spec, settings, barrier, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert found[0] == found[1]
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(Storage(settings.root).list_dirs("encoded")) == sorted([found[0][0], "uses"])


def test_a_remote_root_is_brought_here_once_and_again_when_damaged(
    spec, settings, tiny_dir, monkeypatch, tmp_path
):
    with s3_root(monkeypatch) as url:
        remote = settings.model_copy(update={"root": url})
        ModelStore.open(remote).publish(tiny_dir, BASE, kind=VersionKind.BASE, source_label="tests")
        made = prepare(spec, remote, BASE, spec.data.train, packing=True)
        elsewhere = remote.model_copy(update={"home": tmp_path / "elsewhere"})
        downloads = []
        real = Storage.download_dir

        def counted(self, path, target):
            downloads.append(path)
            return real(self, path, target)

        monkeypatch.setattr(Storage, "download_dir", counted)
        ours = open_encoded(made, remote)
        assert downloads == []
        assert same(open_encoded(made, elsewhere), ours)
        assert same(open_encoded(made, elsewhere), ours)
        assert len(downloads) == 1
        (copy,) = (tmp_path / "elsewhere").rglob("labels.bin")
        os.truncate(copy, 4)
        assert same(open_encoded(made, elsewhere), ours)
        assert len(downloads) == 2
        # Torn over there: whoever prepares it next makes it whole.
        Storage(url).write_atomic(f"encoded/{made.key}/labels.bin", b"torn")
        prepare(spec, remote, BASE, spec.data.train, packing=True)
        third = remote.model_copy(update={"home": tmp_path / "third"})
        assert same(open_encoded(made, third), ours)


def _key(number):
    return f"{number:064x}"


@pytest.fixture
def shelf(settings):
    """Eight datasets, number 7 the newest; those with a number below 4 are two days old."""
    storage = Storage(settings.root)
    now = datetime.now(UTC)
    for number in range(8):
        storage.write_atomic(f"encoded/{_key(number)}/manifest.json", b"{}")
        encoded_uses.note_use(storage, _key(number), f"run-{number}")
        used = (now - timedelta(hours=8 - number, days=2 if number < 4 else 0)).timestamp()
        os.utime(storage.local_path(f"encoded/uses/{_key(number)}/run-{number}"), (used, used))
    return storage


def numbers(storage):
    return [int(name, 16) for name in storage.list_dirs("encoded") if name != "uses"]


def test_the_newest_few_are_kept_and_those_that_a_run_uses(shelf):
    assert sorted(encoded_uses.prune(shelf, {"run-1", "run-6"})) == [_key(0), _key(2), _key(3)]
    assert numbers(shelf) == [1, 4, 5, 6, 7]
    assert shelf.list_dirs("encoded/uses") == [_key(number) for number in (1, 4, 5, 6, 7)]
    assert encoded_uses.prune(shelf, {"run-1"}) == []
    assert encoded_uses.prune(shelf, set()) == [_key(1)]


def test_one_that_was_asked_for_just_now_is_kept(shelf):
    encoded_uses.note_use(shelf, _key(0), "another")
    encoded_uses.prune(shelf, set())
    assert 0 in numbers(shelf)
    for number in range(5):
        encoded_uses.note_use(shelf, _key(20 + number), "more")
        shelf.write_atomic(f"encoded/{_key(20 + number)}/manifest.json", b"{}")
    assert encoded_uses.prune(shelf, set()) != []
    assert sorted(set(numbers(shelf)) & {0, 20, 21, 22, 23, 24}) == [0, 20, 21, 22, 23, 24]


def test_what_a_driver_left_half_made_is_removed_and_what_one_makes_now_is_not(shelf):
    mine = staging_name(_key(1))
    machine, _, token = mine.rsplit("-", 2)
    dead = f"{machine}-{2**22 + 1}-{token}"
    for name in (mine, dead):
        shelf.write_atomic(f"encoded/{name}/labels.bin", b"")
    encoded_uses.prune(shelf, set())
    assert (shelf.exists(f"encoded/{mine}"), shelf.exists(f"encoded/{dead}")) == (True, False)


def _peak_of(tmp_path, tokenizer_dir, count):
    path = tmp_path / f"{count}.jsonl"
    with path.open("w") as file:
        for number in range(count):
            # Every tenth row is dropped.
            file.write(json.dumps({"text": "x" * (500 if number % 10 == 0 else 40)}) + "\n")
    target = tmp_path / f"encoded-{count}"
    target.mkdir()
    way = Way(method=Method.SFT, max_length=64, packing_seed=3)
    tracemalloc.start()
    contents = encode_into(target, str(path), tokenizer_dir, way)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert contents.rows == count * 9 // 10
    assert contents.dropped["longer than 64 tokens"].count == count // 10
    assert len(contents.dropped["longer than 64 tokens"].first_ids) == 5
    return peak


def test_memory_does_not_grow_with_the_rows(tmp_path, tiny_dir, monkeypatch):
    monkeypatch.setattr(encoding, "iter_packs", _small_windows(encoding.iter_packs))
    _peak_of(tmp_path, tiny_dir, 100)
    few, many = _peak_of(tmp_path, tiny_dir, 1000), _peak_of(tmp_path, tiny_dir, 5000)
    # The numbers of the rows alone are eight bytes each.
    assert many < few + 5000 * 8


def _small_windows(real):
    return lambda offsets, max_length, seed: real(offsets, max_length, seed, window=512)

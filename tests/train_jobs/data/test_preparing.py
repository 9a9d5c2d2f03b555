import pyarrow.parquet as pq
import pytest

from cluster import manifest
from cluster.errors import ConfigError, ConflictError, IntegrityError, StorageError
from cluster.storage import Storage
from tests.train_jobs.data.package import many_snippets, write_package
from train_jobs.data import preparing, sentiment
from train_jobs.data.built_in import BuiltIn
from train_jobs.data.preparing import list_prepared
from train_jobs.data.reading import read_examples

SPLITS = ("train", "validation", "test")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package as it lies in the cache after a download."""
    monkeypatch.setenv("LINNET_HOME", str(tmp_path / "home"))
    shelf = tmp_path / "home/cache/packages" / f"{sentiment.REQUIREMENT}-source"
    path = shelf / "vaderSentiment-3.3.2.tar.gz"
    digest = write_package(path, many_snippets())
    monkeypatch.setattr(sentiment, "ARCHIVE_SHA256", digest)
    return path


def prepare(out, dataset=BuiltIn.ICWSM2014, **options):
    return preparing.prepare(dataset, out, **{"held_out_per_label": 5, **options})


def test_three_splits_in_messages_form(tmp_path, package):
    done = prepare(tmp_path / "d")
    assert done.changed
    assert sorted(item.name for item in done.path.iterdir()) == [
        "manifest.json",
        "test.parquet",
        "train.parquet",
        "validation.parquet",
    ]
    assert {name: summary.labels for name, summary in done.manifest.splits.items()} == {
        "train": {"negative": 20, "positive": 20},
        "validation": {"negative": 5, "positive": 5},
        "test": {"negative": 5, "positive": 5},
    }
    seen = set()
    for split in SPLITS:
        for example in read_examples(done.path / f"{split}.parquet").examples:
            system, user, assistant = example.messages
            assert system.content == sentiment.INSTRUCTION
            number = int(user.content.split()[-1])
            assert assistant.content == ("positive" if number % 2 else "negative")
            seen.add(number)
    assert seen == set(range(60))


def test_parquet_names_its_source_license_and_seed(tmp_path, package):
    done = prepare(tmp_path / "d", seed=7)
    schema = pq.read_schema(done.path / "test.parquet")
    assert schema.names == ["id", "messages", "source", "rating"]
    assert schema.metadata[b"seed"] == b"7"
    assert schema.metadata[b"license"] == b"MIT"
    assert b"ICWSM 2014" in schema.metadata[b"source"]
    assert set(pq.read_table(done.path / "train.parquet")["source"].to_pylist()) == {"tweets", "movies"}


def test_preferences_are_the_same_snippets_in_the_same_splits(tmp_path, package):
    answered = prepare(tmp_path / "a").path
    paired = prepare(tmp_path / "p", BuiltIn.ICWSM2014_PREFERENCES)
    assert paired.manifest.recipe.name == "icwsm2014-preferences"
    for split in SPLITS:
        examples = read_examples(answered / f"{split}.parquet").examples
        pairs = read_examples(paired.path / f"{split}.parquet").examples
        assert [pair.chosen.messages for pair in pairs] == [example.messages for example in examples]
        assert [pair.chosen.id for pair in pairs] == [example.id for example in examples]
        for pair in pairs:
            assert pair.chosen.given == 2
            right, wrong = pair.chosen.messages[-1].content, pair.rejected.messages[-1].content
            assert {right, wrong} == set(sentiment.LABELS)


def test_one_built_in_dataset_takes_the_place_of_another(tmp_path, package):
    prepare(tmp_path / "d")
    done = prepare(tmp_path / "d", BuiltIn.ICWSM2014_PREFERENCES)
    assert done.changed
    assert "chosen" in pq.read_schema(done.path / "train.parquet").names
    assert not prepare(tmp_path / "d", BuiltIn.ICWSM2014_PREFERENCES).changed


def test_the_same_seed_gives_the_same_bytes(tmp_path, package):
    first, second = prepare(tmp_path / "a"), prepare(tmp_path / "b")
    other = prepare(tmp_path / "c", seed=1)
    assert first.manifest.files == second.manifest.files
    assert first.manifest.files != other.manifest.files


def test_a_second_time_changes_nothing(tmp_path, package):
    first = prepare(tmp_path / "d")
    package.unlink()
    again = prepare(tmp_path / "d")
    assert not again.changed
    assert again.manifest == first.manifest


def test_a_damaged_split_is_replaced(tmp_path, package):
    first = prepare(tmp_path / "d")
    (first.path / "test.parquet").write_bytes(b"x")
    again = prepare(tmp_path / "d")
    assert again.changed
    assert again.manifest.files == first.manifest.files
    assert not manifest.verify(Storage(str(tmp_path)), "d", again.manifest)


def test_another_seed_replaces_the_dataset_and_leaves_nothing_beside_it(tmp_path, package):
    prepare(tmp_path / "d")
    done = prepare(tmp_path / "d", seed=1)
    assert done.manifest.recipe.seed == 1
    assert sorted(item.name for item in tmp_path.iterdir()) == [".d.lock", "d", "home"]


def test_what_a_killed_run_left_is_cleared(tmp_path, package):
    (tmp_path / ".d.staged").mkdir()
    (tmp_path / ".d.staged" / "train.parquet").write_bytes(b"half")
    prepare(tmp_path / "d")
    assert not (tmp_path / ".d.staged").exists()


def test_a_directory_of_something_else_is_left_alone(tmp_path, package):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConflictError, match="did not write"):
        prepare(tmp_path / "d")
    assert [item.name for item in (tmp_path / "d").iterdir()] == ["thesis.txt"]


def test_a_failure_while_writing_leaves_nothing(tmp_path, package, monkeypatch):
    prepare(tmp_path / "d")
    before = (tmp_path / "d" / "manifest.json").read_bytes()
    written = []

    def full(self, path, data):
        written.append(path)
        if len(written) == 3:
            raise StorageError("full", code="storage.full")
        self.local_path(path).parent.mkdir(exist_ok=True)
        self.local_path(path).write_bytes(data)

    monkeypatch.setattr(Storage, "write_atomic", full)
    with pytest.raises(StorageError):
        prepare(tmp_path / "d", seed=1)
    assert (tmp_path / "d" / "manifest.json").read_bytes() == before
    assert not (tmp_path / ".d.staged").exists()


def test_a_place_that_cannot_be_written(tmp_path, package):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        prepare(tmp_path / "file" / "d")


def test_a_wrong_package_leaves_nothing(tmp_path, package):
    write_package(package, {"tweets": [(2.0, "other")]})
    with pytest.raises(IntegrityError, match=str(package)):
        prepare(tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_holding_out_everything_is_refused(tmp_path, package):
    with pytest.raises(ConfigError, match="too little to train on"):
        prepare(tmp_path / "d", held_out_per_label=15)


def test_committed_datasets_are_listed_and_broken_ones_told(tmp_path, package):
    root = preparing.data_root()
    assert list_prepared(root) == ([], [])
    done = prepare(root / "good")
    (root / "uncommitted").mkdir()
    (root / "broken").mkdir()
    (root / "broken" / "manifest.json").write_text("{}")
    found, broken = list_prepared(root)
    assert found == [(done.path, done.manifest)]
    assert ["broken" in error.message for error in broken] == [True]

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cluster.errors import ConflictError, IntegrityError, NotFoundError, StorageError, UsageError
from cluster.manifest import Golden, GoldenAnswer, Lineage, VersionKind
from cluster.refs import parse_version_ref
from cluster.registry import ModelStore
from cluster.state.database import Database
from cluster.storage import Storage
from tests.support.store_views import below, models_dir, names, told
from tests.support.version_files import write_adapter, write_model

V1, V2 = parse_version_ref("m:v1"), parse_version_ref("m:v2")
GOLDEN = Golden(
    dtype="float32",
    transformers_version="5",
    answers=[
        GoldenAnswer(
            prompt="?", prompt_token_ids=[1], answer="!", answer_token_ids=[2], max_tokens=4, top2_margin=0.5
        )
    ],
)


class TestPublish:
    def test_a_version_carries_everything_it_was_given(self, store, tmp_path):
        source = write_model(tmp_path / "s")
        lineage = Lineage(run="r", step=40)

        made = store.publish(
            source,
            V1,
            kind=VersionKind.MERGED,
            source_label="run r",
            parent="m:v0",
            lineage=lineage,
            golden=GOLDEN,
        )

        assert store.manifest(V1) == made
        assert (made.kind, made.source, made.parent, made.lineage) == (
            VersionKind.MERGED,
            "run r",
            "m:v0",
            lineage,
        )
        assert made.golden == GOLDEN
        assert (made.architecture, made.dtype, made.parameters) == ("TinyForCausalLM", "bfloat16", 520)
        assert set(made.files) == {path.name for path in source.iterdir()}
        assert store.verify(V1) == []

    def test_files_are_read_only_and_nothing_lies_beside_them(self, store, publish):
        publish(store, "m:v1")

        directory = store.local_dir(V1)
        assert all(path.stat().st_mode & 0o222 == 0 for path in (directory, *directory.iterdir()))
        assert names(models_dir(store) / "m") == ["aliases.json", "v1"]

    def test_the_first_version_becomes_stable_and_later_ones_do_not(self, store, publish):
        publish(store, "m:v1")
        publish(store, "m:v2", seed=1)

        assert store.aliases("m") == {"stable": "v1"}
        assert told(store) == ["version.published", "alias.moved", "version.published"]

    def test_a_version_is_never_written_twice(self, store, publish):
        made = publish(store, "m:v1")

        with pytest.raises(ConflictError, match="m:v1"):
            publish(store, "m:v1", seed=1)
        assert store.manifest(V1) == made
        assert store.verify(V1) == []

    def test_of_two_publishers_at_once_one_wins_whole(self, store, tmp_path):
        sources = [write_model(tmp_path / f"s{seed}", seed=seed) for seed in range(2)]
        gate, outcomes = threading.Barrier(2), []

        def run(source: Path) -> None:
            gate.wait()
            try:
                outcomes.append(store.publish(source, V1, kind=VersionKind.BASE, source_label=source.name))
            except ConflictError:
                outcomes.append(None)

        threads = [threading.Thread(target=run, args=(source,)) for source in sources]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert outcomes.count(None) == 1
        assert store.manifest(V1) in outcomes
        assert store.verify(V1) == []
        assert names(models_dir(store) / "m") == ["aliases.json", "v1"]

    def test_truncated_weights_are_refused_by_name(self, store, tmp_path):
        source = write_model(tmp_path / "s")
        weights = source / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])

        with pytest.raises(IntegrityError, match=r"model\.safetensors"):
            store.publish(source, V1, kind=VersionKind.BASE, source_label="x")
        assert below(models_dir(store)) == set()
        assert told(store) == []

    @pytest.mark.parametrize("moment", ["upload_file", "write_atomic", "rename"])
    @pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
    def test_a_failure_at_any_moment_leaves_nothing_and_the_next_try_works(
        self, store, publish, monkeypatch, moment, failure
    ):
        def broken(*_args: object) -> None:
            raise failure

        with monkeypatch.context() as patch:
            patch.setattr(Storage, moment, broken)
            with pytest.raises(failure):
                publish(store, "m:v1")

        assert below(models_dir(store)) == set()
        assert told(store) == []
        assert store.versions() == []
        publish(store, "m:v1")
        assert store.verify(V1) == []

    def test_a_transaction_that_does_not_commit_takes_the_version_back(self, store, publish, monkeypatch):
        transaction = Database.transaction

        def broken(self):
            return _FailsAtTheEnd(transaction(self))

        monkeypatch.setattr(Database, "transaction", broken)
        with pytest.raises(StorageError, match="lost"):
            publish(store, "m:v1")
        monkeypatch.undo()

        assert below(models_dir(store)) == set()
        assert told(store) == []

    def test_a_kill_leaves_only_what_gc_takes(self, store, publish, tmp_path, settings):
        source = write_model(tmp_path / "s")
        program = (
            "import os, signal, sys\nfrom pathlib import Path\n"
            "from cluster import manifest\nfrom cluster.registry import ModelStore\n"
            "from cluster.refs import parse_version_ref\nfrom cluster.manifest import VersionKind\n"
            "manifest.commit = lambda *args: os.kill(os.getpid(), signal.SIGKILL)\n"
            "ModelStore.open().publish(Path(sys.argv[1]), parse_version_ref('m:v1'),"
            " kind=VersionKind.BASE, source_label='x')\n"
        )
        done = subprocess.run([sys.executable, "-c", program, str(source)], check=False)
        assert done.returncode == -9

        assert store.versions() == []
        assert store.models() == []
        publish(store, "m:v1")
        leftovers = store.gc(dry_run=True)
        assert [Path(path).name.startswith(".staging-v1--") for path in leftovers] == [True]
        assert store.gc(dry_run=False) == leftovers
        assert store.gc(dry_run=True) == []
        assert store.verify(V1) == []

    def test_too_small_a_disk_is_refused_before_anything_is_written(self, settings, small_disk, publish):
        disk = small_disk("size=2m")
        store = ModelStore.open(settings.model_copy(update={"root": str(disk)}))

        with pytest.raises(StorageError) as caught:
            publish(store, "m:v1", rows=100_000)

        assert caught.value.code == "storage.full"
        assert below(disk) == set()
        publish(store, "m:v1")
        assert store.verify(V1) == []

    def test_a_disk_that_fills_up_on_the_way_leaves_nothing(self, settings, small_disk, publish):
        disk = small_disk("size=64m,nr_inodes=8")
        store = ModelStore.open(settings.model_copy(update={"root": str(disk)}))

        with pytest.raises(StorageError) as caught:
            publish(store, "m:v1")

        assert caught.value.code == "storage.full"
        assert below(disk) <= {"models"}

    def test_an_adapter_takes_its_tokenizer_from_its_parent(self, store, publish, tmp_path):
        base = publish(store, "m:v1")
        adapter = write_adapter(tmp_path / "a")

        made = store.publish(adapter, V2, kind=VersionKind.ADAPTER, source_label="run", parent="m:v1")

        assert made.tokenizer_sha256 == base.tokenizer_sha256
        assert made.chat_template_sha256 == base.chat_template_sha256
        for parent, error in ((None, IntegrityError), ("m:v7", NotFoundError)):
            with pytest.raises(error):
                store.publish(
                    adapter,
                    parse_version_ref("m:v3"),
                    kind=VersionKind.ADAPTER,
                    source_label="x",
                    parent=parent,
                )

    def test_labels_that_the_store_needs_itself_are_refused(self, store, publish):
        with pytest.raises(UsageError):
            publish(store, "m:aliases.json")

    def test_a_source_that_is_not_there_is_not_found(self, store, tmp_path):
        with pytest.raises(NotFoundError):
            store.publish(tmp_path / "none", V1, kind=VersionKind.BASE, source_label="x")


class _FailsAtTheEnd:
    def __init__(self, inner):
        self.inner = inner

    def __enter__(self):
        return self.inner.__enter__()

    def __exit__(self, *error):
        lost = StorageError("lost before the commit")
        self.inner.__exit__(type(lost), lost, None)
        raise lost


class TestResolve:
    @pytest.mark.parametrize("text", ["m:v1", "m@stable", "m"])
    def test_every_way_of_naming_leads_to_the_version(self, store, publish, text):
        publish(store, "m:v1")

        assert store.resolve(text) == V1

    @pytest.mark.parametrize(
        ("text", "code", "nearest"),
        [
            ("smolm2:release", "models.unknown_model", "`smollm2`"),
            ("smolm2", "models.unknown_model", "`smollm2`"),
            ("smollm2:relaese", "models.unknown_version", "`release`"),
            ("smollm2@stabel", "models.unknown_alias", "`stable`"),
        ],
    )
    def test_what_is_not_there_is_answered_with_the_nearest_that_is(
        self, store, publish, text, code, nearest
    ):
        publish(store, "smollm2:release")

        with pytest.raises(NotFoundError) as caught:
            store.resolve(text)

        assert caught.value.code == code
        assert f"Did you mean {nearest}?" in caught.value.message

    def test_an_empty_store_says_how_to_fill_it(self, store):
        with pytest.raises(NotFoundError) as caught:
            store.resolve("m")
        assert "linnet models import" in caught.value.hint


class TestReading:
    def test_only_committed_versions_are_listed(self, store, publish):
        publish(store, "m:v1")
        publish(store, "a:v1")
        (models_dir(store) / "m" / "v2").mkdir()
        (models_dir(store) / "b" / "v1").mkdir(parents=True)

        assert [manifest.ref for manifest in store.versions()] == ["a:v1", "m:v1"]
        assert [manifest.ref for manifest in store.versions("m")] == ["m:v1"]
        assert store.models() == ["a", "m"]
        with pytest.raises(NotFoundError):
            store.manifest(V2)

    def test_a_broken_manifest_is_skipped_aloud_and_named_by_verify(self, store, publish, caplog):
        publish(store, "m:v1")
        publish(store, "m:v2", seed=1)
        (store.local_dir(V2) / "manifest.json").chmod(0o644)
        (store.local_dir(V2) / "manifest.json").write_text("{")

        assert [manifest.ref for manifest in store.versions()] == ["m:v1"]
        assert "m:v2" in caplog.text
        assert [problem.path for problem in store.verify(V2)] == ["manifest.json"]
        with pytest.raises(IntegrityError):
            store.local_dir(V2)

    def test_next_labels_never_come_again(self, store, publish):
        assert store.next_label("m") == "v1"
        publish(store, "m:v1")
        publish(store, "m:v9", seed=1)
        publish(store, "m:v1.2.0-canary", seed=2)
        assert store.next_label("m") == "v10"
        store.remove(parse_version_ref("m:v9"), reason="test")
        assert store.next_label("m") == "v10"


class TestSoundness:
    def test_one_changed_byte_is_named_and_never_handed_out(self, store, publish):
        publish(store, "m:v1")
        weights = store.local_dir(V1) / "model.safetensors"
        _flip_last_byte(weights)

        assert [problem.path for problem in store.verify(V1)] == ["model.safetensors"]
        assert store.verify(V1, deep=False) == []
        for _ in range(2):
            with pytest.raises(IntegrityError, match=r"model\.safetensors"):
                store.local_dir(V1)

    def test_missing_truncated_and_added_files_are_named_without_hashing(self, store, publish):
        publish(store, "m:v1")
        directory = store.local_dir(V1)
        directory.chmod(0o755)
        (directory / "config.json").unlink()
        os.truncate(directory / "tokenizer.json", 3)
        (directory / "generation_config.json").write_text("{}")

        paths = {problem.path for problem in store.verify(V1, deep=False)}

        assert paths == {"config.json", "tokenizer.json", "generation_config.json"}
        with pytest.raises(IntegrityError):
            store.local_dir(V1)

    def test_unchanged_files_are_hashed_once_in_a_process(self, store, publish, monkeypatch):
        publish(store, "m:v1")
        store.local_dir(V1)
        hashed: list[str] = []
        real = Storage.sha256
        monkeypatch.setattr(Storage, "sha256", lambda self, path: hashed.append(path) or real(self, path))

        store.local_dir(V1)
        assert hashed == []
        os.utime(store.storage.local_path("models/m/v1/config.json"), ns=(1, 1))
        store.local_dir(V1)
        assert [Path(path).name for path in hashed] == ["config.json"]


def _flip_last_byte(file: Path) -> None:
    os.chmod(file, 0o644)
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(bytes(raw))

import string
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cluster.errors import IntegrityError, NotFoundError
from cluster.manifest import (
    MANIFEST_NAME,
    CheckpointManifest,
    FileEntry,
    Golden,
    GoldenAnswer,
    Lineage,
    Manifest,
    VersionKind,
    VersionManifest,
    commit,
    read,
    require_sound,
    scan,
    verify,
)
from cluster.storage import Storage

HASHES = st.text(alphabet="0123456789abcdef", min_size=64, max_size=64)
SIZES = st.integers(0, 2**50)
FILES = st.dictionaries(
    st.text(alphabet=string.ascii_letters + "._-/", min_size=1),
    st.builds(FileEntry, sha256=HASHES, size=SIZES),
)
IDS = st.lists(st.integers(0, 200_000), max_size=20)
ANSWERS = st.builds(
    GoldenAnswer,
    prompt=st.text(),
    prompt_token_ids=IDS,
    answer=st.text(),
    answer_token_ids=IDS,
    max_tokens=st.integers(1, 64),
    top2_margin=st.floats(0, 100),
)
VERSIONS = st.builds(
    VersionManifest,
    created_at=st.datetimes(min_value=datetime(2000, 1, 1), timezones=st.just(UTC)),
    files=FILES,
    kind=st.sampled_from(VersionKind),
    lineage=st.none() | st.builds(Lineage, run=st.text(), step=SIZES),
    golden=st.none()
    | st.builds(
        Golden, dtype=st.text(), transformers_version=st.text(), answers=st.lists(ANSWERS, max_size=3)
    ),
)


@given(manifest=VERSIONS)
def test_a_version_manifest_survives_the_disk(tmp_path_factory, manifest):
    storage = Storage(str(tmp_path_factory.mktemp("root")))
    storage.write_atomic(f"v1/{MANIFEST_NAME}", manifest.to_bytes())

    assert read(storage, "v1", VersionManifest) == manifest
    assert manifest.total_bytes == sum(entry.size for entry in manifest.files.values())


CONTENT = st.dictionaries(
    st.text(alphabet=string.ascii_lowercase, min_size=1, max_size=6),
    st.binary(min_size=1, max_size=64),
    min_size=1,
)


@given(content=CONTENT, data=st.data())
@hypothesis_settings(max_examples=50)
def test_any_changed_bit_is_found_in_the_file_that_has_it(tmp_path_factory, content, data):
    storage = Storage(str(tmp_path_factory.mktemp("root")))
    for name, raw in content.items():
        storage.write_atomic(f"d/{name}", raw)
    manifest = Manifest(files=scan(storage, "d"))
    assert verify(storage, "d", manifest) == []

    name = data.draw(st.sampled_from(sorted(content)))
    raw = bytearray(content[name])
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    storage.write_atomic(f"d/{name}", bytes(raw))

    assert [problem.path for problem in verify(storage, "d", manifest)] == [name]
    assert verify(storage, "d", manifest, deep=False) == []


@pytest.fixture
def committed(tmp_path) -> tuple[Storage, CheckpointManifest]:
    storage = Storage(str(tmp_path))
    for name in ("weights", "optimizer/state"):
        storage.write_atomic(f"step/{name}", name.encode())
    manifest = CheckpointManifest(files=scan(storage, "step"), run="r", step=5, attempt=1, world_size=2)
    commit(storage, "step", manifest)
    return storage, manifest


def test_a_committed_directory_is_read_back_and_does_not_list_itself(committed):
    storage, manifest = committed

    assert read(storage, "step", CheckpointManifest) == manifest
    assert MANIFEST_NAME not in manifest.files
    assert scan(storage, "step") == manifest.files
    require_sound(storage, "step", manifest)


def test_missing_and_truncated_files_are_told_apart_without_hashing(committed, tmp_path):
    storage, manifest = committed
    (tmp_path / "step" / "weights").write_bytes(b"w")
    (tmp_path / "step" / "optimizer" / "state").unlink()

    problems = verify(storage, "step", manifest, deep=False)

    assert [(p.path, p.reason) for p in problems] == [
        ("optimizer/state", "missing"),
        ("weights", "1 bytes, the manifest says 7"),
    ]
    with pytest.raises(IntegrityError, match=r"optimizer/state: missing; weights: 1 bytes"):
        require_sound(storage, "step", manifest)


def test_a_directory_without_a_manifest_was_never_committed(tmp_path):
    storage = Storage(str(tmp_path))
    storage.write_atomic("step/weights", b"1")

    with pytest.raises(NotFoundError) as caught:
        read(storage, "step", CheckpointManifest)
    assert caught.value.code == "manifest.missing"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"{}", b'{"files": {}, "unknown": 1}', b"\xff\xfe"])
def test_a_manifest_that_does_not_parse_is_an_integrity_error(tmp_path, raw):
    storage = Storage(str(tmp_path))
    storage.write_atomic(f"step/{MANIFEST_NAME}", raw)

    with pytest.raises(IntegrityError) as caught:
        read(storage, "step", CheckpointManifest)
    assert caught.value.code == "manifest.unreadable"

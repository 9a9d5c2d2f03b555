import io
import tarfile
import zipfile

import pytest

from cluster.errors import EnvironmentSetupError, StorageError
from cluster.packages import download_package

METADATA = "Metadata-Version: 2.1\nName: linnet-probe\nVersion: 1.0\n"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of packages in the place of an index, and a home of its own."""
    folder = tmp_path / "links"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("LINNET_HOME", str(tmp_path / "home"))
    return folder


def add_wheel(folder):
    with zipfile.ZipFile(folder / "linnet_probe-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("linnet_probe-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("linnet_probe-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("linnet_probe-1.0.dist-info/RECORD", "")


def add_source(folder):
    files = {
        "setup.py": "import setuptools\nsetuptools.setup(name='linnet-probe', version='1.0', packages=[])\n",
        "PKG-INFO": METADATA,
    }
    with tarfile.open(folder / "linnet_probe-1.0.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"linnet_probe-1.0/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))


def shelves(home):
    return sorted(
        str(item.relative_to(home / "cache/packages")) for item in home.rglob("*") if item.is_file()
    )


def test_a_wheel_is_fetched_once_and_kept(index, tmp_path):
    add_wheel(index)
    first = download_package("linnet-probe==1.0")
    assert first.name == "linnet_probe-1.0-py3-none-any.whl"
    assert zipfile.is_zipfile(first)
    for item in index.iterdir():
        item.unlink()
    assert download_package("linnet-probe==1.0") == first
    assert shelves(tmp_path / "home") == ["linnet-probe==1.0/.lock", f"linnet-probe==1.0/{first.name}"]


def test_the_source_archive_is_a_file_of_its_own(index):
    add_wheel(index)
    add_source(index)
    assert download_package("linnet-probe==1.0").suffix == ".whl"
    assert download_package("linnet-probe==1.0", source_only=True).name == "linnet_probe-1.0.tar.gz"


def test_what_a_killed_download_left_is_cleared(index, tmp_path):
    add_wheel(index)
    partial = tmp_path / "home/cache/packages/linnet-probe==1.0/partial"
    partial.mkdir(parents=True)
    (partial / "a-half.whl").write_bytes(b"x")
    assert download_package("linnet-probe==1.0").name.startswith("linnet_probe")
    assert not partial.exists()


def test_a_package_that_is_not_there_ends_in_pip_s_last_line(index, tmp_path):
    with pytest.raises(EnvironmentSetupError, match="No matching distribution found") as caught:
        download_package("linnet-probe==1.0")
    assert "linnet-probe==1.0" in caught.value.message
    assert caught.value.retryable
    assert shelves(tmp_path / "home") == ["linnet-probe==1.0/.lock"]


def test_a_requirement_is_never_an_option_of_pip(index):
    with pytest.raises(EnvironmentSetupError, match="--version"):
        download_package("--version")


def test_a_cache_that_cannot_be_written(index, tmp_path):
    (tmp_path / "home").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        download_package("linnet-probe==1.0")

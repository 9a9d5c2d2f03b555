from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.config import Settings
from cluster.storage import Storage
from tests.support.s3 import s3_root


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path, monkeypatch) -> Iterator[str]:
    """A storage root: a directory, and a bucket."""
    if request.param == "local":
        yield str(tmp_path / "root")
        return
    with s3_root(monkeypatch) as url:
        yield url


@pytest.fixture
def storage(root) -> Storage:
    return Storage(root)


@pytest.fixture
def settings(tmp_path) -> Settings:
    """An installation that keeps all in one place."""
    return Settings(home=tmp_path, root=str(tmp_path), state_url=f"sqlite:///{tmp_path}/linnet.db")

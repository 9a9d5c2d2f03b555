from __future__ import annotations

import pytest

from tests.support.certificates import Authority


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority(tmp_path)

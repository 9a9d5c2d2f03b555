"""The one private call by which a worker host asks the head of its nodes."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from cluster import gcs_nodes
from tests.conftest import free_port


def test_a_gcs_that_is_not_there_is_a_connection_error():
    assert version("ray") == "2.60.0", "a private call of this one"
    nobody = f"127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionError, match=nobody):
        gcs_nodes.alive(nobody)

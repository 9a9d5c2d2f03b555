"""Networks of hosts for the tests here; skipped, with the reason, where this machine can make none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hosts.network import Network
from tests.hosts.system import why_not


@pytest.fixture(scope="session", autouse=True)
def _hosts_can_be_made() -> None:
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture
def pair() -> Iterator[Network]:
    with Network.create(["left", "right"]) as network:
        yield network

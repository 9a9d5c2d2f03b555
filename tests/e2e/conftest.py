"""What the long tests found is told after the run, since an assertion tells only what is wrong."""

from __future__ import annotations

import pytest

_FOUND: list[str] = []


@pytest.fixture
def told() -> list[str]:
    """Lines for the end of the run."""
    return _FOUND


def pytest_terminal_summary(terminalreporter) -> None:
    if _FOUND:
        terminalreporter.section("serving under harm")
        for line in _FOUND:
            terminalreporter.write_line(line)

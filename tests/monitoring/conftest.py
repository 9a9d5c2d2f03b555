"""The real Prometheus and promtool; what needs them is skipped, with the reason, where they cannot be had."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.serve_apps.gateway.conftest import database, launch, loop_thread
from tests.support.markdown import CHECKOUT

__all__ = ["database", "launch", "loop_thread"]

Promtool = Callable[..., str]


@cache
def _setup() -> subprocess.CompletedProcess[str]:
    return subprocess.run([CHECKOUT / ".dev/setup-prometheus"], capture_output=True, text=True, check=False)


@pytest.fixture
def prometheus_folder() -> Path:
    """Where `prometheus` and `promtool` are."""
    done = _setup()
    if done.returncode:
        pytest.skip(f"no promtool: .dev/setup-prometheus said: {done.stderr.strip()}")
    return Path(done.stdout.strip())


@pytest.fixture
def promtool(prometheus_folder) -> Promtool:
    """Runs promtool; its whole output, and a failed test where promtool fails."""

    def run(*arguments: object) -> str:
        done = subprocess.run(
            [prometheus_folder / "promtool", *map(str, arguments)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run

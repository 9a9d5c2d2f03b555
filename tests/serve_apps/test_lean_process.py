"""What a gateway's process does without; each in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serve_apps import lean_process

TOO_HEAVY = {
    *("alembic", "mako", "pandas", "pyarrow", "scipy", "matplotlib", "torch", "transformers", "vllm"),
    *("typer", "rich", "ray.data", "ray.train", "ray.tune", "ray.llm", "ray.serve.llm", "ray.dashboard"),
}


def modules_after(*statements: str) -> set[str]:
    program = "; ".join(["import sys", *statements, "print(*sys.modules, sep='\\n')"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def hook() -> str:
    module, _, name = lean_process.HOOK.rpartition(".")
    return f"import {module}; {module}.{name}()"


def test_a_gateway_imports_nothing_that_it_has_no_use_for():
    found = modules_after(hook(), "import serve_apps.gateway.deployment")
    assert {"ray.serve", "serve_apps.gateway.exchange"} <= found
    assert TOO_HEAVY & found == set()


@pytest.mark.parametrize("name", ["pandas", "pyarrow"])
def test_what_is_left_out_is_as_if_not_installed(name):
    program = (
        f"{hook()}\ntry:\n    import {name}.lib\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [name]


def test_serve_would_import_it_and_does_not_need_it():
    """Where this fails, Serve no longer wants pandas, and the hook can go."""
    assert {"pandas", "pyarrow"} <= modules_after("import ray.serve")

"""How the rooms hang together: who imports whom, what stays light, how long a file may be."""

import ast
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
ROOMS = {
    "cluster": {"serve_apps", "train_jobs"},
    "serve_apps": {"train_jobs"},
    "train_jobs": {"serve_apps"},
}
HEAVY = {"ray", "torch", "vllm", "transformers"}
MAX_LINES = 500


def sources(room: str) -> list[Path]:
    return sorted((CHECKOUT / room).rglob("*.py"))


def imported(node: ast.AST) -> set[str]:
    """Top-level names of the modules that an import statement brings in."""
    if isinstance(node, ast.Import):
        return {alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and not node.level:
        return {(node.module or "").partition(".")[0]}
    return set()


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported: no function bodies, nothing for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from (inner for other in child.orelse for inner in [other, *statements(other)])
            continue
        yield child
        yield from statements(child)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_keep_to_themselves(room):
    found = {
        f"{file.relative_to(CHECKOUT)}:{node.lineno} imports {name}"
        for file in sources(room)
        for node in ast.walk(ast.parse(file.read_text()))
        for name in imported(node) & ROOMS[room]
    }
    assert found == set()


def test_the_control_plane_imports_nothing_heavy_with_its_modules():
    found = {
        f"{file.relative_to(CHECKOUT)}:{node.lineno} imports {name}"
        for file in sources("cluster")
        for node in statements(ast.parse(file.read_text()))
        for name in imported(node) & HEAVY
    }
    assert found == set()


def test_the_control_plane_has_no_model_library_even_inside_functions():
    found = {
        f"{file.relative_to(CHECKOUT)}:{node.lineno} imports {name}"
        for file in sources("cluster")
        for node in ast.walk(ast.parse(file.read_text()))
        for name in imported(node) & (HEAVY - {"ray"})
    }
    assert found == set()


def test_module_level_imports_are_found_and_others_are_not():
    source = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import vllm\n"
        "else:\n    import transformers.models\n"
        "try:\n    from ray.util import metrics\nexcept ImportError:\n    pass\n"
        "class Some:\n    import torch\n"
        "def later():\n    import numpy\n"
    )
    names = {name for node in statements(ast.parse(source)) for name in imported(node)}
    assert names == {"typing", "transformers", "ray", "torch"}


def test_help_is_light_and_quick():
    program = (
        "import sys; from cluster.cli.main import main; code = main(['--help'])\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "usage: linnet" in done.stdout
    assert done.stderr.splitlines()[-1] == "[]"
    # It takes a tenth of this; the bound leaves room for a slow machine under load.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0


def test_no_file_outgrows_its_limit():
    folders = [*ROOMS, "tests", "benchmarks"]
    lengths = {file: len(file.read_text().splitlines()) for folder in folders for file in sources(folder)}
    assert {str(file.relative_to(CHECKOUT)): n for file, n in lengths.items() if n > MAX_LINES} == {}

"""Which verbs there are, and that asking for help is cheap."""

from __future__ import annotations

import json
import subprocess
import sys

import typer

from cluster import extensions


def test_the_verbs_are_these():
    command = typer.main.get_command(extensions.load(extensions.NOUNS, "rollout"))
    assert list(command.commands) == [
        *("list", "plan", "start", "status", "wait", "set-weight", "approve", "pause", "resume"),
        *("promote", "abort", "rollback", "retry", "history", "explain", "replay", "plot"),
    ]


def test_help_of_the_noun_and_of_each_verb_imports_nothing_heavy():
    heavy = {"ray", "torch", "vllm", "matplotlib", "pyarrow", "numpy", "sqlalchemy", "aiohttp"}
    program = (
        "import sys; from cluster.cli.main import main\n"
        "verbs = [[], ['plan'], ['status'], ['wait'], ['explain'], ['replay'], ['plot'], ['start']]\n"
        "codes = [main(['rollout', *verb, '--help']) for verb in verbs]\n"
        f"import json; print(json.dumps([codes, sorted({heavy!r} & set(sys.modules))]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stderr.splitlines()[-1]) == [[0] * 8, []]

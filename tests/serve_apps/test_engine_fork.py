"""The fork server, in a process of its own: preloading cannot be undone in this one."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, os, sys
from serve_apps import engine_fork

def report(connection):
    connection.send((os.environ["OMP_NUM_THREADS"], "json.tool" in sys.modules, os.getppid()))

if __name__ == "__main__":
    engine_fork._PRELOADED[:] = ["json.tool"]
    engine_fork.start()
    context = engine_fork.context()
    mine, theirs = context.Pipe()
    child = context.Process(target=report, args=(theirs,))
    child.start()
    threads, preloaded, parent = mine.recv()
    child.join()
    print(json.dumps([threads, preloaded, parent != os.getpid(), os.environ.get("OMP_NUM_THREADS")]))
"""


@pytest.mark.parametrize("given", [None, "3"])
def test_a_forked_process_has_the_imports_and_the_threads(tmp_path, given):
    script = tmp_path / "forks.py"
    script.write_text(PROGRAM)
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    if given is not None:
        environment["OMP_NUM_THREADS"] = given
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    threads, preloaded, forked_elsewhere, after = json.loads(done.stdout)
    assert threads == given or (given is None and int(threads) >= 1)
    assert preloaded
    assert forked_elsewhere
    assert after == given

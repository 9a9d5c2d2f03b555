"""An engine process ends when its parent was killed, and only a child process watches."""

import os
import subprocess
import sys

import psutil

from serve_apps import engine_process

PARENT = """
import multiprocessing, time
from serve_apps.engine_process import end_with_parent

def child(connection):
    end_with_parent()
    connection.send(multiprocessing.current_process().pid)
    time.sleep(300)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=child, args=(theirs,)).start()
    print(ours.recv(), flush=True)
    time.sleep(300)
"""


def test_a_child_ends_after_its_parent_was_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    gone, alive = psutil.wait_procs([child], timeout=20)
    assert gone
    assert not alive


def test_a_main_process_does_not_watch():
    engine_process.end_with_parent()
    assert not engine_process._watching.is_set()

"""The Python stack of a process that does not answer, taken from outside by py-spy."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

# Ray Train runs the training function in a thread of this name; the main thread serves Ray.
_TRAINING_THREAD = "TrainingThread"
_MAIN_THREAD = "MainThread"
_THREAD = re.compile(r"^Thread \S+ \([^)]*\)(?:: \"(?P<name>.*)\")?$")


def python_stack(pid: int, timeout_s: float = 5) -> str:
    """All threads' Python stacks of a process on this node, or a sentence that says why there are none.

    The process may be running, stuck or stopped by SIGSTOP; a running one is held up for milliseconds.
    Never raises.
    """
    program = _py_spy()
    if program is None:
        return "No stack: py-spy is not installed; `pip install py-spy` adds it."
    # py-spy pauses the process that it reads, which fails on one that is stopped already.
    pausing = ["--nonblocking"] if _is_stopped(pid) else []
    command = [program, "dump", *pausing, "--pid", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return f"No stack: py-spy did not answer within {timeout_s:g} s for the process {pid}."
    except OSError as error:
        return f"No stack: {program} cannot be run: {error.strerror}."
    if done.returncode != 0:
        return f"No stack: py-spy cannot read the process {pid}: {_reason(done.stderr)}."
    return done.stdout.strip()


def frames(text: str) -> list[str]:
    """`function (file:line)` of the thread that trains, innermost first; none when `text` has no stack.

    That is Ray Train's training thread, else the main thread, else the first one.
    """
    threads = _threads(text)
    for wanted in (_TRAINING_THREAD, _MAIN_THREAD):
        for name, found in threads:
            if name.startswith(wanted):
                return found
    return threads[0][1] if threads else []


def _threads(text: str) -> list[tuple[str, list[str]]]:
    threads: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if heading := _THREAD.match(line):
            threads.append((heading["name"] or "", []))
        elif threads and line.startswith("    "):
            threads[-1][1].append(line.strip())
    return threads


def _py_spy() -> str | None:
    beside = Path(sys.executable).parent / "py-spy"
    return str(beside) if beside.is_file() else shutil.which("py-spy")


def _is_stopped(pid: int) -> bool:
    try:
        return str(psutil.Process(pid).status()) == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.partition("Stack backtrace:")[0].splitlines() if line.strip()]
    told = " ".join(line for line in lines if line != "Caused by:")
    return told.removeprefix("Error: ") or "it gave no reason"

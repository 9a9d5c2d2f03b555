from __future__ import annotations

import io
import os
import signal
import stat
import sys
import threading
from pathlib import Path

import psutil
import pytest

from cluster.config import Settings
from cluster.demo import commands as module
from cluster.demo.commands import Child, Commands
from cluster.demo.teller import Teller
from cluster.errors import EnvironmentSetupError, LinnetError, NotFoundError


@pytest.fixture
def commands(settings: Settings, teller: Teller) -> Commands:
    return Commands(teller)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a Python program on the PATH under a name."""

    def write(name: str, text: str) -> str:
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!{sys.executable}\n{text}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        return name

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return write


def test_prints_a_command_and_reads_its_json(commands: Commands, said: io.StringIO):
    assert commands.linnet("models", "list")["data"] == []
    assert "$ linnet models list --json" in said.getvalue()


def test_looks_without_a_word(commands: Commands, said: io.StringIO):
    assert commands.look_linnet("models")["data"] == []
    assert said.getvalue() == ""


def test_passes_a_commands_error_on_with_its_kind_code_and_hint(commands: Commands):
    with pytest.raises(NotFoundError) as caught:
        commands.linnet("models", "show", "nothing:v1")
    assert caught.value.exit_code == 3
    assert "nothing" in caught.value.message
    assert caught.value.hint


def test_what_a_library_prints_at_the_end_hides_no_answer(commands: Commands, script):
    name = script("chatty", "print('{\"done\": 1}'); print('[2026 I 1] going down')")
    assert commands._start([name], lambda _line: None).result() == {"done": 1}


def test_a_command_without_an_answer_is_an_error_with_what_it_printed(commands: Commands, script):
    name = script("silent", "print('nothing to tell')")
    with pytest.raises(LinnetError, match="nothing to tell") as caught:
        commands._start([name], lambda _line: None).result()
    assert caught.value.code == "demo.no_answer"


def test_a_command_without_the_error_form_is_told_by_its_last_line(commands: Commands, script):
    name = script(
        "broken",
        "import sys; print('half', file=sys.stderr); print('disk on fire', file=sys.stderr); sys.exit(7)",
    )
    with pytest.raises(LinnetError, match="ended with 7: disk on fire") as caught:
        commands._start([name, "it"], print).output()
    assert caught.value.code == "demo.command_failed"


def test_what_a_command_says_is_passed_on_as_it_works(commands: Commands, said: io.StringIO, script):
    name = script("talker", "import sys; print('converting', file=sys.stderr); print('{\"done\": 1}')")
    assert commands._start([name], commands._teller.whisper).result() == {"done": 1}
    assert "    converting" in said.getvalue()


def test_the_clusters_environment_reaches_the_command(commands: Commands, script):
    name = script("echo-env", "import os; print(os.environ['RAY_ADDRESS'])")
    commands.environment = {"RAY_ADDRESS": "here:1"}
    assert commands.look(name) == "here:1"


def test_a_missing_command_is_named():
    with pytest.raises(EnvironmentSetupError, match="no-such-command"):
        Child(["no-such-command"], {}, print)


def test_stop_lets_a_command_end_in_good_order(commands: Commands, script, tmp_path: Path):
    ready, ended = tmp_path / "ready", tmp_path / "ended"
    name = script(
        "worker",
        "import pathlib, signal, sys, time\n"
        f"def end(*_): pathlib.Path({str(ended)!r}).touch(); sys.exit(130)\n"
        "signal.signal(signal.SIGINT, end)\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "while True: time.sleep(1)",
    )
    child = commands._start([name], print)
    _until(ready.exists)
    commands.stop_all()
    assert ended.exists()
    assert not child.running


def test_stop_kills_what_does_not_listen(commands: Commands, script, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "_STOP_S", 0.2)
    ready = tmp_path / "ready"
    name = script(
        "deaf",
        "import pathlib, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"pathlib.Path({str(ready)!r}).touch()\nwhile True: time.sleep(1)",
    )
    child = commands._start([name], print)
    _until(ready.exists)
    pid = child._process.pid
    child.stop()
    assert not psutil.pid_exists(pid)


def test_an_interrupted_wait_ends_the_command(commands: Commands, script, tmp_path: Path):
    ready = tmp_path / "ready"
    name = script("sleeper", f"import pathlib, time\npathlib.Path({str(ready)!r}).touch()\ntime.sleep(600)")
    child = commands._start([name], print)

    def interrupt() -> None:
        _until(ready.exists)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        child.output()
    assert not child.running


def _until(holds) -> None:
    waiter = threading.Event()
    for _ in range(2000):
        if holds():
            return
        waiter.wait(0.01)
    raise AssertionError("never came true")

"""Running the product's commands as a person would, and reading their JSON."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from cluster.demo import interruptions
from cluster.demo.teller import Teller
from cluster.errors import (
    EnvironmentSetupError,
    ExitCode,
    GateFailedError,
    InterruptedRunError,
    LinnetError,
    NotFoundError,
    TimedOutError,
    UsageError,
)

CHECKOUT = Path(__file__).resolve().parents[2]
_STOP_S, _READ_S = 45.0, 5.0
_BY_EXIT_CODE: dict[int, type[LinnetError]] = {
    ExitCode.USAGE: UsageError,
    ExitCode.NOT_FOUND: NotFoundError,
    ExitCode.GATE_FAILED: GateFailedError,
    ExitCode.TIMED_OUT: TimedOutError,
    ExitCode.INTERRUPTED: InterruptedRunError,
}


class Child:
    """A command that runs; what it says on stderr is handed to `hear`, line by line.

    It has a session of its own, so that Ctrl-C reaches the demo alone, which then ends it.
    """

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], hear: Callable[[str], None]
    ) -> None:
        self.arguments = list(arguments)
        self._out: list[str] = []
        self._said: list[str] = []
        self._process = subprocess.Popen(
            [_program(arguments[0]), *arguments[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, errors="replace", cwd=CHECKOUT, start_new_session=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stderr is not None

        def hear_and_keep(line: str) -> None:
            self._said.append(line)
            hear(line)

        self._readers = [
            _read(self._process.stdout, self._out.append),
            _read(self._process.stderr, hear_and_keep),
        ]

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def finish(self) -> tuple[int, str]:
        """Wait for its end; returns its exit code and what it wrote to stdout. Interrupted, it ends it."""
        try:
            code = self._process.wait()
        except BaseException:
            self.stop()
            raise
        self._close()
        return code, "\n".join(self._out)

    def output(self) -> str:
        """What it wrote to stdout, once it has ended.

        Raises the error that it ended with, of the same code and exit code.
        """
        code, text = self.finish()
        if code != ExitCode.DONE:
            raise _failure(self.arguments, code, text, self._said)
        return text

    def result(self) -> dict[str, Any]:
        """`output` of a command that prints one JSON object, read.

        Raises what `output` raises, and LinnetError `demo.no_answer`, with what was printed, without one.
        """
        text = self.output()
        value = _json_object(text)
        if value is None:
            raise LinnetError(
                f"`{' '.join(self.arguments)}` has ended well and printed no JSON object: {text[-300:]!r}.",
                code="demo.no_answer",
                hint="The same command again tells how things stand.",
            )
        return value

    def findings(self) -> dict[str, Any]:
        """The JSON object of a command whose exit code is a part of its answer, such as `doctor`.

        Raises the error that it told instead.
        """
        code, text = self.finish()
        value = _json_object(text)
        if value is None or "error" in value:
            raise _failure(self.arguments, code, text, self._said)
        return value

    def stop(self) -> None:
        """End it as Ctrl-C would, and by force when it takes too long."""
        if self.running:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._close()

    def _close(self) -> None:
        for reader in self._readers:
            reader.join(_READ_S)


class Commands:
    """Prints each command, runs it with the environment of the cluster and reads its answer."""

    def __init__(self, teller: Teller) -> None:
        self.environment: dict[str, str] = {}
        self._teller = teller
        self._children: list[Child] = []

    def linnet(self, *arguments: str) -> dict[str, Any]:
        """Run `linnet … --json` to its end. Raises the error that it ended with."""
        return self.start_linnet(*arguments).result()

    def ray_serve(self, *arguments: str) -> str:
        """Run Ray's own `serve` to its end and return what it printed."""
        return self._start(["serve", *arguments], _ignore).output()

    def start_linnet(self, *arguments: str, quiet: bool = False) -> Child:
        """Start `linnet … --json` and return at once."""
        return self._start(["linnet", *arguments, "--json"], _ignore if quiet else self._teller.whisper)

    def look(self, *arguments: str) -> str:
        """Run a command that only looks, without a word, and return what it printed."""
        return self._spawn(list(arguments), _ignore).output()

    def look_linnet(self, *arguments: str) -> dict[str, Any]:
        """Run a `linnet … --json` that only looks, without a word."""
        return self._spawn(["linnet", *arguments, "--json"], _ignore).result()

    def stop_all(self) -> None:
        """End every command that still runs."""
        for child in self._children:
            child.stop()

    def _start(self, arguments: list[str], hear: Callable[[str], None]) -> Child:
        self._teller.command(arguments)
        return self._spawn(arguments, hear)

    def _spawn(self, arguments: list[str], hear: Callable[[str], None]) -> Child:
        # Ctrl-C between the start and the note of it would leave a process that nobody ends.
        with interruptions.held():
            child = Child(arguments, self.environment, hear)
            self._children = [*(other for other in self._children if other.running), child]
        return child


def _ignore(_line: str) -> None:
    return None


def _program(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise EnvironmentSetupError(
            f"The command `{name}` is not installed beside {sys.executable}.",
            code="environment.missing_command",
            hint="`make env` installs it.",
        )
    return found


def _read(stream: IO[str], keep: Callable[[str], None]) -> threading.Thread:
    def read() -> None:
        with stream:
            for line in stream:
                keep(line.rstrip("\n"))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    return reader


def _json_object(text: str) -> dict[str, Any] | None:
    """The last line that is one: libraries of the command may print before it, and when it ends."""
    for line in reversed(text.splitlines()):
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                return value
    return None


def _failure(arguments: Sequence[str], code: int, out: str, said: Sequence[str]) -> LinnetError:
    kind = _BY_EXIT_CODE.get(code, LinnetError)
    told = (_json_object(out) or {}).get("error")
    if isinstance(told, dict) and "message" in told:
        return kind(
            str(told["message"]),
            code=told.get("code"),
            hint=str(told.get("hint", "")),
            retryable=bool(told.get("retryable")),
        )
    lines = [line.strip() for line in (*said, *out.splitlines()) if line.strip()]
    last = lines[-1] if lines else "it said nothing"
    return kind(f"`{' '.join(arguments)}` ended with {code}: {last}", code="demo.command_failed")

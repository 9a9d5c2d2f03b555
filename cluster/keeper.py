"""The process that keeps a head node of Ray's: `python -m cluster.keeper [--detach] COMMAND…`.

COMMAND is a `ray start --head` that returns; `ray start --block` would end everything with the first of its
processes. The keeper adopts what it started. One that is killed is started again by its own command line: the
GCS finds its tables in RocksDB and its port free, and raylets, drivers and Serve's actors reconnect to it.

Nothing outlives the raylet of a machine. Where that is killed, COMMAND is run once more; Serve then brings
back from the tables what it served. With `--detach`, for a host among others, the keeper leaves instead:
`ray stop` ends a host by its raylet first, if need be with SIGKILL, and the other hosts need the GCS.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import psutil

from cluster import descendants
from cluster.config import Settings

# Less than the guard waits.
_GRACE_S = 4.0
_KILL_S = 5.0
_POLL_S = 0.1
MOST_REPEATS, WITHIN_S = 10, 60.0
# A head that starts over has all its models to load: what ends it is often seen only after minutes.
MOST_OVERS, OVERS_WITHIN_S = 3, 900.0
STARTS = 3
# Ended because it was told to: the codes by which `ray start --block` tells it.
_ASKED = (0, signal.SIGTERM, -signal.SIGTERM, 128 + signal.SIGTERM)


class Step(StrEnum):
    """What is done about a daemon that has ended."""

    GO_ON = "go_on"
    REPEAT = "repeat"
    START_OVER = "start_over"
    LEAVE = "leave"
    END = "end"


@dataclass(frozen=True)
class Daemon:
    """One of the processes that `ray start` leaves running, and how to start it again."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]

    @property
    def name(self) -> str:
        """Its program: `gcs_server`, `raylet`, `dashboard.py`."""
        programs = (Path(word).name for word in self.argv if not word.startswith("-"))
        return next((name for name in programs if not name.startswith("python")), self.argv[0])

    def start(self) -> int:
        """Start it once more, with nobody at its standard streams; returns its pid."""
        nobody = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in range(3)]
        return os.posix_spawn(
            self.argv[0],
            self.argv,
            self.environ,
            file_actions=nobody,
            setsid=True,
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )


def decide(
    daemon: Daemon, code: int, *, detached: bool, repeats: Sequence[float], overs: Sequence[float], now: float
) -> Step:
    """What to do about a daemon that ended with `code`.

    `repeats` are when daemons were repeated, `overs` when all was started over (seconds).
    """
    if daemon.name != "raylet":
        if code in _ASKED:
            return Step.GO_ON
        return Step.REPEAT if _recent(repeats, WITHIN_S, now) < MOST_REPEATS else Step.END
    if detached:
        return Step.LEAVE
    if code in _ASKED:
        return Step.END
    return Step.START_OVER if _recent(overs, OVERS_WITHIN_S, now) < MOST_OVERS else Step.END


def _recent(times: Sequence[float], within_s: float, now: float) -> int:
    return sum(now - at < within_s for at in times)


@dataclass
class Keeper:
    """Runs a command that starts a head node, and keeps its daemons alive."""

    command: Sequence[str]
    detached: bool = False
    _daemons: dict[int, Daemon] = field(default_factory=dict)
    _unstarted: list[Daemon] = field(default_factory=list)
    _repeats: list[float] = field(default_factory=list)
    _overs: list[float] = field(default_factory=list)
    _stopping: list[int] = field(default_factory=list)

    def run(self, started: Callable[[int], None]) -> int:
        """Start, say with which exit code, and keep until told to stop; returns the code to exit with."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda received, _frame: self._stopping.append(received))
        descendants.adopt_orphans()
        code = self._start_anew()
        started(code)
        step, code = (Step.END, code) if code else self._keep()
        if step is Step.END:
            self._end()
        return code

    def _start(self) -> int:
        # What a lost raylet left may take long to die; it is no daemon of the new head.
        others = {process.pid for process in psutil.Process().children()}
        code = subprocess.run(self.command, check=False).returncode
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                argv = tuple(process.cmdline())
                if process.pid not in others and argv and os.access(argv[0], os.X_OK):
                    self._daemons[process.pid] = Daemon(argv, process.environ())
        return code

    def _keep(self) -> tuple[Step, int]:
        while not self._stopping and (self._daemons or self._unstarted):
            for pid, code in descendants.reap():
                daemon = self._daemons.pop(pid, None)
                if daemon is None:
                    continue
                step = decide(
                    daemon,
                    code,
                    detached=self.detached,
                    repeats=self._repeats,
                    overs=self._overs,
                    now=time.monotonic(),
                )
                _log(f"{daemon.name} (pid {pid}) ended with {code}: {step}")
                if step in (Step.END, Step.LEAVE):
                    return step, int(code not in _ASKED)
                if step is Step.REPEAT:
                    self._repeats.append(time.monotonic())
                    self._unstarted.append(daemon)
                elif step is Step.START_OVER:
                    self._overs.append(time.monotonic())
                    if failed := self._start_anew():
                        return Step.END, failed
            self._start_again()
            time.sleep(_POLL_S)
        return Step.END, 0

    def _start_again(self) -> None:
        """Where there is no memory or no process to be had now, at the next look."""
        waiting, self._unstarted = self._unstarted, []
        for daemon in waiting:
            try:
                self._daemons[daemon.start()] = daemon
            except OSError:
                self._unstarted.append(daemon)

    def _start_anew(self) -> int:
        """With nothing of before; Ray gives a node 30 s to come up, which a busy machine may not keep."""
        for _ in range(STARTS):
            descendants.kill_all(_KILL_S)
            self._daemons.clear()
            self._unstarted.clear()
            if self._stopping or not (failed := self._start()):
                return 0
        return failed

    def _end(self) -> None:
        """SIGTERM to the raylet, so that it lets go of its node; after a bounded wait, SIGKILL to all."""
        for pid in [pid for pid, daemon in self._daemons.items() if daemon.name == "raylet"]:
            with contextlib.suppress(psutil.Error):
                raylet = psutil.Process(pid)
                raylet.terminate()
                raylet.wait(_GRACE_S)
        descendants.kill_all(_KILL_S)


def main(arguments: Sequence[str]) -> int:
    """Keep in the foreground; with `--detach`, return once the command has, and keep in the background."""
    if arguments[0] != "--detach":
        return Keeper(arguments).run(lambda _code: None)
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        told = os.read(reading, 1)
        return told[0] if told else 1
    os.setsid()

    def started(code: int) -> None:
        _write_to_log()
        os.write(writing, bytes([code & 0xFF]))

    os._exit(Keeper(arguments[1:], detached=True).run(started))


def _write_to_log() -> None:
    path = Settings.load().home / "logs" / "cluster.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log, Path(os.devnull).open("rb") as nothing:
        for stream, source in enumerate((nothing, log, log)):
            os.dup2(source.fileno(), stream)


def _log(sentence: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {sentence}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

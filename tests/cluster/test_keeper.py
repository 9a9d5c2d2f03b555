"""Daemons of the head are started again as they were; not what was told to end, nor what will not stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from cluster import head
from cluster.keeper import MOST_OVERS, MOST_REPEATS, OVERS_WITHIN_S, WITHIN_S, Daemon, Keeper, Step
from cluster.keeper import decide as decide_at
from tests.support.endpoint import wait_for

GCS = Daemon(("/ray/gcs_server", "--gcs_server_port=6379"), {})
RAYLET = Daemon(("/ray/raylet",), {})
# As Ray's: a launcher that leaves daemons behind. Each tells its pid and what it was given.
TELL = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()} {os.environ[\"WORD\"]}\\n'); "
LAUNCHER = """
import os, subprocess, sys
os.environ["WORD"] = "kept"
for program in sys.argv[2:]:
    told = f"{sys.argv[1]}/{os.path.basename(program)}.told"
    subprocess.Popen([sys.executable, program, told], stdout=subprocess.DEVNULL)
"""


def decide(daemon, code, *, detached=False, repeats=(), overs=(), now=0.0):
    return decide_at(daemon, code, detached=detached, repeats=repeats, overs=overs, now=now)


@pytest.mark.parametrize("code", [0, -signal.SIGTERM, 128 + signal.SIGTERM])
def test_a_daemon_that_was_told_to_end_is_let_go(code):
    assert decide(GCS, code) is Step.GO_ON


@pytest.mark.parametrize("code", [-signal.SIGKILL, -signal.SIGSEGV, 1])
def test_a_daemon_that_was_killed_is_repeated(code):
    assert decide(GCS, code) is Step.REPEAT


def test_a_killed_raylet_takes_the_head_with_it_which_starts_over():
    assert decide(RAYLET, -signal.SIGKILL) is Step.START_OVER


def test_the_cluster_ends_with_a_raylet_that_was_told_to():
    assert decide(RAYLET, 0) is Step.END


@pytest.mark.parametrize("code", [0, -signal.SIGKILL])
def test_on_a_host_among_others_a_raylet_is_left_to_ray_stop(code):
    assert decide(RAYLET, code, detached=True) is Step.LEAVE


def test_a_daemon_that_will_not_stay_ends_the_cluster():
    repeats = [float(second) for second in range(MOST_REPEATS)]
    last = repeats[-1]
    assert decide(GCS, -9, repeats=repeats, now=last) is Step.END
    assert decide(GCS, -9, repeats=repeats[1:], now=last) is Step.REPEAT
    assert decide(GCS, -9, repeats=repeats, now=last + WITHIN_S) is Step.REPEAT
    assert decide(RAYLET, -9, repeats=repeats, now=last) is Step.START_OVER


def test_a_head_whose_models_end_it_minutes_after_each_start_is_not_started_for_ever():
    overs = [200.0 * number for number in range(MOST_OVERS)]
    last = overs[-1]
    assert decide(RAYLET, -9, overs=overs, now=last + 200) is Step.END
    assert decide(RAYLET, -9, overs=overs[1:], now=last + 200) is Step.START_OVER
    assert decide(RAYLET, -9, overs=overs, now=last + OVERS_WITHIN_S) is Step.START_OVER
    assert decide(GCS, -9, overs=overs, now=last + 200) is Step.REPEAT


def test_what_is_left_of_a_lost_head_is_no_daemon_of_the_new_one():
    left = subprocess.Popen(["sleep", "600"])
    try:
        keeper = Keeper(["true"])
        assert keeper._start() == 0
        assert keeper._daemons == {}
    finally:
        left.kill()
        left.wait()


def test_what_cannot_be_started_now_is_started_at_a_later_look(tmp_path):
    program = tmp_path / "gcs_server"
    keeper = Keeper(["true"])
    keeper._unstarted.append(Daemon((str(program),), dict(os.environ)))
    keeper._start_again()
    assert keeper._daemons == {}
    program.write_text("#!/bin/sh\nsleep 600\n")
    program.chmod(0o755)
    keeper._start_again()
    ((pid, daemon),) = keeper._daemons.items()
    process = psutil.Process(pid)
    process.kill()
    process.wait(10)
    assert daemon.name == "gcs_server"
    assert keeper._unstarted == []


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (("/ray/gcs_server", "--log_dir=/tmp"), "gcs_server"),
        (("/env/bin/python3", "-u", "/ray/dashboard/dashboard.py", "--port=1"), "dashboard.py"),
        (("/env/bin/python", "-m", "ray.util.client.server", "--port=1"), "ray.util.client.server"),
    ],
)
def test_a_daemon_has_the_name_of_its_program(argv, name):
    assert Daemon(argv, {}).name == name


class Kept:
    """A keeper of two daemons made of Python."""

    def __init__(self, directory: Path, *options: str) -> None:
        launcher = directory / "launch.py"
        launcher.write_text(LAUNCHER)
        programs = [directory / "gcs_server", directory / "raylet"]
        for program in programs:
            program.write_text(f"{TELL}time.sleep(600)")
        self.directory = directory
        self.log = directory / "logs" / "cluster.log"
        self.process = subprocess.Popen(
            [
                *head.module("keeper"),
                *options,
                sys.executable,
                str(launcher),
                str(directory),
                *map(str, programs),
            ],
            env={**os.environ, "LINNET_HOME": str(directory)},
            stdout=subprocess.PIPE,
            text=True,
        )

    def lives(self, program: str) -> list[list[str]]:
        """A pid and a word for each start of the program."""
        told = self.directory / f"{program}.told"
        return [line.split() for line in told.read_text().splitlines()] if told.exists() else []

    def wait_for_life(self, program: str, number: int) -> psutil.Process:
        wait_for(lambda: len(self.lives(program)) >= number, f"life {number} of {program}")
        return psutil.Process(int(self.lives(program)[number - 1][0]))

    def all_gone(self) -> bool:
        pids = [int(pid) for program in ("gcs_server", "raylet") for pid, _ in self.lives(program)]
        return not any(psutil.pid_exists(pid) for pid in pids)


@pytest.fixture
def kept(tmp_path) -> Kept:
    kept = Kept(tmp_path)
    yield kept
    kept.process.terminate()
    kept.process.communicate(timeout=30)
    wait_for(kept.all_gone, "the end of all daemons")


def test_a_killed_gcs_is_started_again_in_its_environment_beside_the_same_raylet(kept):
    raylet = kept.wait_for_life("raylet", 1)
    kept.wait_for_life("gcs_server", 1).kill()
    kept.wait_for_life("gcs_server", 2).kill()
    kept.wait_for_life("gcs_server", 3)
    assert {word for _, word in kept.lives("gcs_server")} == {"kept"}
    assert raylet.is_running()
    assert len(kept.lives("raylet")) == 1


def test_with_a_killed_raylet_all_start_over_and_nothing_of_before_is_left(kept):
    gcs = kept.wait_for_life("gcs_server", 1)
    kept.wait_for_life("raylet", 1).kill()
    kept.wait_for_life("gcs_server", 2)
    assert kept.wait_for_life("raylet", 2).is_running()
    assert not gcs.is_running()


def test_a_start_that_fails_on_a_busy_machine_is_tried_again(kept):
    launcher = kept.directory / "launch.py"
    kept.wait_for_life("gcs_server", 1)
    raylet = kept.wait_for_life("raylet", 1)
    once = "import pathlib; pathlib.Path(__file__).write_text({text!r}); raise SystemExit(1)"
    launcher.write_text(once.format(text=launcher.read_text()))
    raylet.kill()
    assert kept.wait_for_life("raylet", 2).is_running()


def test_what_cannot_be_started_again_ends_with_its_code(kept):
    kept.wait_for_life("gcs_server", 1)
    raylet = kept.wait_for_life("raylet", 1)
    (kept.directory / "launch.py").write_text("raise SystemExit(3)")
    raylet.kill()
    assert kept.process.wait(60) == 3


def test_a_raylet_that_ends_as_it_was_told_ends_all(kept):
    kept.wait_for_life("gcs_server", 1)
    kept.wait_for_life("raylet", 1).terminate()
    assert kept.process.wait(30) == 0
    assert kept.all_gone()


def test_a_first_start_that_fails_on_a_busy_machine_is_tried_again(tmp_path):
    tries = tmp_path / "tries"
    failing = f"open({str(tries)!r}, 'a').write('x'); raise SystemExit(len(open({str(tries)!r}).read()) < 2)"
    done = subprocess.run([*head.module("keeper"), sys.executable, "-c", failing], check=False)
    assert done.returncode == 0
    assert tries.read_text() == "xx"


def test_a_command_that_fails_is_told_by_its_code():
    done = subprocess.run([*head.module("keeper"), sys.executable, "-c", "raise SystemExit(3)"], check=False)
    assert done.returncode == 3


def test_detached_it_returns_as_the_command_does_and_keeps_on(tmp_path):
    kept = Kept(tmp_path, "--detach")
    # As over ssh: it ends once nothing in the background holds the output open.
    kept.process.communicate(timeout=60)
    assert kept.process.returncode == 0
    gcs, raylet = (kept.wait_for_life(program, 1) for program in ("gcs_server", "raylet"))
    keeper = gcs.parent()
    gcs.kill()
    again = kept.wait_for_life("gcs_server", 2)
    assert "gcs_server" in kept.log.read_text()
    raylet.kill()
    keeper.wait(30)
    # `ray stop` ends the others itself, after the raylet.
    assert again.is_running()
    again.kill()
    wait_for(kept.all_gone, "the end of all daemons")


def test_detached_a_command_that_fails_is_told_by_its_code(tmp_path):
    done = subprocess.run(
        [*head.module("keeper"), "--detach", sys.executable, "-c", "raise SystemExit(3)"],
        env={**os.environ, "LINNET_HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 3


def test_this_ray_has_what_the_keeper_relies_on():
    """By experiment with 2.60.0: a GCS that is repeated by its command line finds its tables and its port.

    Try it with another (docs/decisions/the-head-comes-back.md) before changing this number.
    """
    assert version("ray") == "2.60.0"
    ray = Path(next(iter(find_spec("ray").submodule_search_locations)))
    binary = (ray / "core" / "src" / "ray" / "gcs" / "gcs_server").read_bytes()
    assert b"RAY_gcs_storage_path" in binary
    assert (ray / "core" / "src" / "ray" / "raylet" / "raylet").exists()

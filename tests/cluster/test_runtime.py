"""The embedded cluster: started once, ended with all below it, even after its guard was killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster import runtime
from cluster.config import Settings
from cluster.errors import ConfigError, ConflictError, EnvironmentSetupError, IntegrityError, NotFoundError
from cluster.tls.pair import KeyPair
from tests.conftest import free_port
from tests.support.certificates import Authority


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(home=tmp_path, root=str(tmp_path), state_url=f"sqlite:///{tmp_path}/s.db")


def ports():
    return {"gcs_port": free_port(), "dashboard_port": free_port(), "serve_port": free_port()}


def test_a_port_in_use_is_named_with_its_holder(settings):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        chosen = {**ports(), "serve_port": taken.getsockname()[1]}
        with pytest.raises(EnvironmentSetupError, match=rf"{chosen['serve_port']}.*pid {os.getpid()}"):
            runtime.up(settings, **chosen)
    assert runtime.current(settings) is None


def test_a_key_of_another_certificate_is_refused_before_anything_starts(settings, tmp_path):
    authority = Authority(tmp_path)
    mixed = KeyPair(authority.issue("one").certfile, authority.issue("other").keyfile)
    with pytest.raises(ConfigError, match="is not that of the certificate"):
        runtime.up(settings, **ports(), pair=mixed)
    assert not (settings.home / "run").exists()


def test_down_without_up_is_not_found(settings):
    with pytest.raises(NotFoundError):
        runtime.down(settings)


def test_an_unreadable_record_is_an_error_with_a_hint(settings):
    (settings.home / "run").mkdir()
    (settings.home / "run" / "cluster.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"cluster\.json"):
        runtime.current(settings)


@pytest.mark.cluster
def test_a_second_up_is_refused_while_one_runs(shared_cluster, shared_settings):
    with pytest.raises(ConflictError, match=shared_cluster.address):
        runtime.up(shared_settings, **ports())


@pytest.mark.cluster
def test_down_after_the_guard_was_killed_leaves_nothing(settings):
    info = runtime.up(settings, num_cpus=1, **ports())
    tree = psutil.Process(info.guard_pid).children(recursive=True)
    assert any("raylet" in process.name() for process in tree)
    os.kill(info.guard_pid, signal.SIGKILL)
    runtime.down(settings)
    _, alive = psutil.wait_procs(tree, timeout=20)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert not Path(info.temp_dir).exists()


def test_up_clears_away_what_a_killed_guard_left(settings, tmp_path, monkeypatch):
    left = tmp_path / "linnet-left"
    (left / "gcs").mkdir(parents=True)
    ended = subprocess.Popen(["true"])
    ended.wait()
    info = runtime.ClusterInfo(
        guard_pid=ended.pid,
        guard_started=0.0,
        address="",
        dashboard_url="",
        serve_url="",
        temp_dir=str(left),
        log_file="",
        num_cpus=1,
        auth_mode="token",
    )
    runtime._write_info(settings.home, info)
    monkeypatch.setattr(runtime, "_start", lambda *_: None)
    runtime.up(settings, **ports())
    assert not left.exists()


def test_the_guard_ends_orphans_of_what_it_runs(tmp_path):
    marker = tmp_path / "orphan.pid"
    orphaning = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '300'], start_new_session=True)\n"
        f"open({str(marker)!r}, 'w').write(str(child.pid))\n"
        "import time; time.sleep(300)\n"
    )
    guard = subprocess.Popen(
        [sys.executable, "-m", "cluster.guard", str(tmp_path / "ray"), sys.executable, "-c", orphaning]
    )
    deadline = time.monotonic() + 30
    while not (marker.exists() and marker.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    orphan = psutil.Process(int(marker.read_text()))
    guard.terminate()
    assert guard.wait(40) == 0
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE

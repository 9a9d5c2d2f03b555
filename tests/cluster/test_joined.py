"""A worker's Ray goes on under a head that has come back, but not with other settings or sources."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from cluster.joined import Raylet, changed, is_alive_to, sources_at

STARTED = Raylet("a1", 1000.0, {"RAY_AUTH_MODE": "token", "LINNET_ROOT": "/mnt/linnet", "HOME": "/root"})


@pytest.mark.parametrize(
    ("environ", "written_at", "what"),
    [
        ({"RAY_AUTH_MODE": "token", "LINNET_ROOT": "/mnt/linnet", "HOME": "/other"}, 999.0, None),
        ({}, 999.0, None),
        ({"LINNET_ROOT": "/mnt/other"}, 999.0, "LINNET_ROOT"),
        ({"RAY_SERVE_ENABLE_HA_PROXY": "1"}, 999.0, "RAY_SERVE_ENABLE_HA_PROXY"),
        ({}, 1001.0, "the checkout"),
    ],
)
def test_what_has_changed_since_the_raylet_was_started_is_named(environ, written_at, what):
    assert changed(STARTED, environ, written_at) == what


def test_what_is_made_on_the_host_is_no_source(tmp_path):
    for made in (".venv/linnet.stamp", "cluster/__pycache__/joined.pyc"):
        (tmp_path / made).parent.mkdir(parents=True)
        (tmp_path / made).touch()
    assert sources_at(tmp_path) == 0.0
    before = time.time() - 1
    source = tmp_path / "cluster" / "joined.py"
    source.touch()
    os.utime(source, (1.0, 1.0))
    assert sources_at(tmp_path) > before, "as rsync leaves it, with the time that it had elsewhere"
    (tmp_path / "dangling").symlink_to("nowhere")
    assert sources_at(tmp_path) > before


def test_a_head_is_given_time_to_hear_of_the_raylet():
    answers = [ConnectionError("down"), set(), {"a1", "b2"}]

    def look(_head):
        answer = answers.pop(0)
        if isinstance(answer, ConnectionError):
            raise answer
        return answer

    assert is_alive_to("head:6379", "a1", patience_s=10, look=look)
    assert answers == []


def test_a_raylet_that_the_head_does_not_know_is_given_up():
    assert not is_alive_to("head:6379", "a1", patience_s=0, look=lambda _head: {"b2"})


@pytest.mark.cluster
def test_a_raylet_of_this_host_is_found_and_known_to_its_head(shared_cluster):
    known = "raylet is not None and raylet.node_id in gcs_nodes.alive(sys.argv[1])"
    program = f"import sys; from cluster import gcs_nodes, joined; raylet = joined.find(); print({known})"
    assert run(shared_cluster, "-c", program) == (0, "True\n")


@pytest.mark.cluster
def test_the_command_tells_by_its_exit_code(shared_cluster):
    code, told = run(shared_cluster, "-m", "cluster.joined", LINNET_ROOT="/somewhere/else")
    assert code == 1
    assert told.startswith("Ray is started: ")
    assert told.endswith(" has changed since the raylet was started\n")


def run(cluster, *arguments, **more):
    """Exit code and output of a program that is told the cluster's GCS."""
    environment = {**os.environ, **cluster.environment, **more}
    del environment["RAY_ADDRESS"]  # which only drivers have
    done = subprocess.run(
        [sys.executable, *arguments, cluster.address],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout

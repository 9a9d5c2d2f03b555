"""cluster.yaml as it is shipped brings up a cluster of three hosts, which trains, and takes it down."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import psutil
import pytest

from tests.hosts import cluster
from tests.hosts.network import Network
from tests.support.endpoint import wait_for

RAY_PROCESSES = "raylet|gcs_server|ray::|dashboard|monitor.py"
# `--log-cli-level=info` shows how long each part took, in seconds.
TIMES = logging.getLogger(__name__)
JOB = Path(__file__).with_name("spread_job.py")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ray_up_then_status_then_a_training_job_then_ray_down():
    with Network.create(["desk", "head", "worker1", "worker2"]) as network:
        with cluster.up(network, desk="desk", head="head", workers=["worker1", "worker2"]) as running:
            TIMES.info("ray_up_s %.1f", running.seconds_up)
            TIMES.info("all_joined_s %.1f", running.wait_for_nodes(3))
            assert running.live_nodes() == {network[n].address for n in ("head", "worker1", "worker2")}
            # What `ray status` shows is the autoscaler's last report, some seconds old.
            status = wait_for(lambda: status_with_six_cpus(running), "all CPUs in `ray status`")
            assert "(no failures)" in status, status
            train(network, running)
            callers_without_the_token_are_refused(network, running)
            a_joined_worker_goes_on_until_something_changes(network, running)
            went_up = time.monotonic()
        TIMES.info("ray_down_s %.1f", time.monotonic() - went_up)
        assert network["head"].processes(RAY_PROCESSES) == []
        TIMES.info("workers_gone_s %.1f", wait_until_gone(network, went_up))


def status_with_six_cpus(running: cluster.RayCluster) -> str | None:
    status = running.on_head("ray status").stdout
    return status if "/6.0 CPU" in status else None


def train(network: Network, running: cluster.RayCluster) -> None:
    """Submit the job on the head, and see that its two workers were on two hosts and reached each other."""
    out = network.shared / "job"
    out.mkdir()
    (out / "job.py").write_text(JOB.read_text())
    done = running.on_head("ray job submit -- python /mnt/linnet/job/job.py /mnt/linnet/job", timeout=300)
    assert "succeeded" in done.stdout, done.stdout
    seen = [(out / f"rank-{rank}").read_text().split() for rank in (0, 1)]
    assert [total for _, total in seen] == ["3000", "3000"]
    hosts = {host for host, _ in seen}
    assert len(hosts) == 2
    assert hosts < {"head", "worker1", "worker2"}


def callers_without_the_token_are_refused(network: Network, running: cluster.RayCluster) -> None:
    ask = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8265/api/jobs/"
    assert running.head.run(ask).stdout == "401"
    allowed = running.head.run(f'{ask} -H "Authorization: Bearer $(cat ~/.ray/auth_token)"')
    assert allowed.stdout == "200"


def a_joined_worker_goes_on_until_something_changes(network: Network, running: cluster.RayCluster) -> None:
    ask = f". ~/linnet.env && python -m cluster.joined {running.head.address}:6379"
    worker = network["worker1"]
    assert worker.run(ask).stdout.startswith("Ray goes on")
    worker.run("touch ~/linnet/README.md")
    assert "the checkout has changed" in worker.run(ask, check=False).stdout


def wait_until_gone(network: Network, since: float) -> float:
    """Seconds from `since` until no worker has a raylet: each ends once it has given up on the head."""
    raylets: list[psutil.Process] = [
        p for name in ("worker1", "worker2") for p in network[name].processes("raylet/raylet")
    ]
    _, alive = psutil.wait_procs(raylets, timeout=cluster.PATIENCE_S + 90)
    assert alive == []
    return time.monotonic() - since


CONFIG = "head_ip: 192.0.2.1 # CHANGE\nkeep: me\n  export ROOT=/mnt/x # CHANGE\n"


def test_only_marked_lines_are_edited():
    text = cluster.edited(CONFIG, {"head_ip": "10.0.0.1", "ROOT": "/srv"})
    assert text == "head_ip: 10.0.0.1 # CHANGE\nkeep: me\n  export ROOT=/srv # CHANGE\n"


@pytest.mark.parametrize(
    "values", [{"head_ip": "10.0.0.1"}, {"head_ip": "10.0.0.1", "ROOT": "/srv", "keep": "you"}]
)
def test_values_and_marks_must_match(values):
    with pytest.raises(ValueError, match=r"CHANGE|marked"):
        cluster.edited(CONFIG, values)

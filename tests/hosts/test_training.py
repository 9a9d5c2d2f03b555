"""A job on hosts that `ray up` made a cluster of, one of which dies: the run ends as if none had."""

from __future__ import annotations

import time

import pytest

from cluster.recovery.classes import FailureClass
from tests.hosts.training import TIMES, Site, spec_of


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_host_dies_and_the_run_is_finished_elsewhere():
    with Site.up() as site, site.submit(spec_of("host-lost", max_steps=400)) as run:
        TIMES.info("ray_up_s %.1f", site.running.seconds_up)
        run.reach(20)
        (host, victim), *_ = run.trainers()
        died_at = time.time()
        host.kill()
        run.advance(1)
        TIMES.info("new work %.1f s after the death", time.time() - died_at)
        run.stage.until(lambda: len(run.stage.attempts()[-1].workers) == 2, "two workers")
        run.stage.until(lambda: len(run.stage.attempts()[-1].workers) == 3, "three workers again")
        TIMES.info("three train %.1f s after the death", time.time() - died_at)
        assert run.finish()["applied"]

        shown = site.running.on_head(f"linnet train show {run.spec.run}").stdout
        TIMES.info("%s", shown)
        (receipt,) = run.failures()
        assert receipt.failure_class in {FailureClass.NODE_LOST, FailureClass.NETWORK_STALL}
        assert (receipt.victim.pid, receipt.victim.node) == (victim.pid, host.address)
        assert receipt.at == pytest.approx(died_at, abs=5)
        assert f"receipt 1: {receipt.failure_class}" in shown
        assert f"pid {victim.pid} on {host.address}" in shown
        audit = site.running.on_head(f"linnet train audit {run.spec.run}").stdout
        assert "lost          0\nrepeated      0\nunproven      0\n" in audit
        # Nobody trains on the host that died, and three do again.
        last = run.stage.attempts()[-1]
        assert len(last.workers) == 3
        assert host.address not in {worker.node_ip for worker in last.workers}

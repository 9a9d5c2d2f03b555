"""What can befall hosts during a run of three workers on three of them: it ends with the same losses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import mean

import psutil
import pytest

from cluster.recovery.classes import FailureClass
from tests.chaos.stage import is_alive
from tests.hosts import faults
from tests.hosts.host import Host
from tests.hosts.training import SHARED, TIMES, WORKER_PROCESS, WORKERS, Run, Site, spec_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DISK = f"{SHARED}/disk"
DISK_MEBIBYTES = 256
REPLACED_WITHIN_S = 15.0


@pytest.fixture(scope="module")
def running_site() -> Iterator[Site]:
    with Site.up(disk_mebibytes=DISK_MEBIBYTES) as site:
        yield site


@pytest.fixture
def site(running_site) -> Site:
    """All hosts are there, whatever the test before did to them."""
    running_site.running.wait_for_nodes(1 + len(WORKERS))
    return running_site


def is_slowed(run: Run, first: int, last: int) -> None:
    """The fault was felt: a step of those after `first` took longer than one before or after them."""
    records = [record for record in run.stage.files.read_steps() if record.step > 5]
    slowed = mean(record.step_s for record in records if first < record.step <= last)
    usual = mean(record.step_s for record in records if not first < record.step <= last)
    TIMES.info("a step took %.3f s, and %.3f s", usual, slowed)
    assert slowed > 1.5 * usual


def test_a_narrow_link_slows_a_run_and_nobody_is_blamed_for_more(site):
    with site.submit(spec_of("narrow")) as run:
        run.reach(20)
        (host, _), *_ = run.trainers()
        begin = run.stage.step
        with faults.throttle(host, 400_000):
            run.advance(20)
            end = run.stage.step
        run.finish()
        assert run.failures() == []
        is_slowed(run, begin, end)


def test_lost_packets_slow_a_run_and_end_no_process(site):
    with site.submit(spec_of("lossy")) as run:
        run.reach(20)
        (host, _), *_ = run.trainers()
        begin, crew = run.stage.step, pids(run)
        with faults.lose_packets(host, 0.2):
            run.advance(20)
            end = run.stage.step
        run.finish()
        assert {receipt.failure_class for receipt in run.failures()} <= {FailureClass.NETWORK_STALL}
        assert pids(run) == crew
        is_slowed(run, begin, end)


def test_a_stopped_process_is_found_named_and_replaced(site):
    with site.submit(spec_of("frozen", standby=1)) as run:
        run.reach(20)
        (host, victim), *_ = run.trainers()
        frozen_at = time.time()
        with faults.freeze(host, WORKER_PROCESS) as (process,):
            run.advance(10)
            TIMES.info("ten steps %.1f s after SIGSTOP", time.time() - frozen_at)
            run.stage.until(lambda: not is_alive(process.pid), "the end of the stopped process")
        run.finish()
        (receipt,) = run.failures()
        assert receipt.failure_class is FailureClass.HUNG_RANK
        assert (receipt.victim.pid, receipt.victim.node) == (victim.pid, host.address)
        assert receipt.at == pytest.approx(frozen_at, abs=2)
        assert receipt.total_s < REPLACED_WITHIN_S
        assert "train_jobs" in receipt.stack, receipt.stack


def test_a_full_disk_holds_a_run_up_until_there_is_room(site):
    head = site.network["head"]
    head.inside(f"cp -r {SHARED}/models {DISK}/")
    spec = spec_of("disk-full")
    with site.submit(spec, root=DISK) as run:
        run.stage.until(lambda: len(metrics(head, spec.run)) > 20, "step 20")
        with faults.full_disk(head, DISK):
            run.stage.until(lambda: has_said(head, "storage_refused"), "a refusal")
        run.finish()
        head.inside(f"cp -r {DISK}/runs {SHARED}/")
        assert {receipt.failure_class for receipt in run.failures()} == {FailureClass.STORAGE_REFUSED}


def test_a_host_that_is_cut_off_is_done_without_and_does_no_harm_when_it_is_back(site):
    with site.submit(spec_of("cut", standby=1, max_steps=150)) as run:
        run.reach(20)
        (host, victim), *_ = run.trainers()
        cut_at = time.time()
        with faults.cut(host):
            run.advance(20)
            TIMES.info("twenty steps %.1f s after the cut", time.time() - cut_at)
            left = {worker.node_ip for worker in run.stage.attempts()[-1].workers}
            assert host.address not in left
        run.finish()
        (receipt,) = run.failures()
        assert receipt.failure_class in {FailureClass.NETWORK_STALL, FailureClass.NODE_LOST}
        assert (receipt.victim.pid, receipt.victim.node) == (victim.pid, host.address)
        wait_until_gone(host)


def pids(run: Run) -> set[tuple[str, int]]:
    """Who trains, or trained last."""
    return {(worker.node_ip, worker.pid) for worker in run.stage.attempts()[-1].workers}


def metrics(host: Host, run: str) -> list[str]:
    """Lines of a run's metrics.jsonl on the small disk."""
    return host.inside(f"cat {DISK}/runs/{run}/metrics.jsonl 2>/dev/null || true").splitlines()


def has_said(host: Host, word: str) -> bool:
    """Whether any process of Ray's wrote this word on that host."""
    logs = (host.directory / "tmp" / "ray").glob("session_2*/logs/worker-*")
    return any(word in path.read_text(errors="replace") for path in logs)


def wait_until_gone(host: Host) -> None:
    """The worker that was left behind ends by itself."""
    _, alive = psutil.wait_procs(host.processes(WORKER_PROCESS), timeout=120)
    assert alive == []

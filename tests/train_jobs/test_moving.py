"""Nodes that Ray is about to take away, and room that appears, on several raylets of this machine."""

import io
import os
import signal
import tempfile
import threading
import time

import psutil
import pytest

from cluster.recovery import receipts
from cluster.recovery.classes import FailureClass
from cluster.storage import Storage
from tests.train_jobs.test_training import losses, until
from train_jobs import audit, driver
from train_jobs.run_files import RunFiles
from train_jobs.spec import FaultTolerance, WorkersSpec

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

STEPS = 900


@pytest.fixture
def nodes(monkeypatch):
    """A head without room for workers; nodes of one CPU are added by the tests."""
    import ray
    from ray.cluster_utils import Cluster

    # Ray's head spins while the place of a lost node has no other (ray-project/ray#65007), and workers that
    # yield to everything, as Ray's do, would hardly get a turn on the cores that they share with it here.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    with tempfile.TemporaryDirectory(prefix="tj-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        head = {"num_cpus": 1, "include_dashboard": False, "temp_dir": directory}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def calm(nodes, spec, settings, store):
    """What a run that nothing happens to comes to."""
    extra = [nodes.add_node(num_cpus=1)]
    nodes.wait_for_nodes()
    given = spec.model_copy(update={"run": "calm", "max_steps": STEPS, "save_steps": 50})
    driver.train(given, settings, stream=io.StringIO())
    for node in extra:
        nodes.remove_node(node)
    return losses(RunFiles(Storage(settings.root), "calm"))


def drain(node_id):
    import ray
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int((time.time() + 600) * 1000)
    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    accepted, _ = client.drain_node(node_id, reason, "tests", deadline)
    assert accepted


def hold(node_id):
    """An actor that leaves a node no room."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    holder = ray.remote(num_cpus=1)(io.StringIO).options(scheduling_strategy=there).remote()
    ray.get(holder.__ray_ready__.remote())
    return holder


def free(holder):
    import ray

    ray.kill(holder)
    until(lambda: ray.available_resources().get("CPU"), "room")
    time.sleep(0.5)


def start(spec, settings):
    failed = []

    def run():
        try:
            driver.train(spec, settings, stream=io.StringIO())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def wait():
        thread.join(200)
        assert not thread.is_alive()
        if failed:
            raise failed[0]

    return wait


def proven(run, settings):
    told = audit.audit_run(run, settings)
    assert (told.lost, told.repeated, told.unproven, told.steps) == (0, 0, 0, STEPS)


@pytest.mark.parametrize("tolerance", FaultTolerance)
def test_workers_leave_a_draining_node_with_everything_committed(
    nodes, calm, spec, settings, files, tolerance
):
    second = nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    moving = spec.model_copy(
        update={
            "max_steps": STEPS,
            "save_steps": 50,
            "num_workers": 1,
            "workers": WorkersSpec(min=1, max=2),
            "fault_tolerance": tolerance,
        }
    )
    wait = start(moving, settings)
    until(lambda: [s for s in files.read_steps() if s.step >= 20], "step 20")
    drain(second.node_id)
    wait()
    assert losses(files) == calm
    kept = receipts.read(files.storage, files.receipts)
    (told,) = [one for one in kept if one.failure_class is FailureClass.NODE_DRAINING]
    assert (told.steps_redone, told.attempt_after) == (0, 2)
    assert told.total_s > 0
    assert [len(attempt.workers) for attempt in files.read_attempts()] == [2, 1]
    proven("run-1", settings)


def test_a_group_of_one_size_is_launched_anew_on_the_nodes_that_stay(nodes, calm, spec, settings, files):
    second, third = nodes.add_node(num_cpus=1), nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    holder = hold(third.node_id)
    wait = start(spec.model_copy(update={"max_steps": STEPS, "save_steps": 50}), settings)
    until(lambda: [s for s in files.read_steps() if s.step >= 20], "step 20")
    free(holder)
    drain(second.node_id)
    wait()
    assert losses(files) == calm
    (told,) = receipts.read(files.storage, files.receipts)
    assert (told.failure_class, told.steps_redone) == (FailureClass.NODE_DRAINING, 0)
    assert [len(attempt.workers) for attempt in files.read_attempts()] == [2, 2]
    proven("run-1", settings)


def test_an_elastic_run_starts_with_what_there_is_room_for(nodes, calm, spec, settings, files):
    elastic = spec.model_copy(
        update={"max_steps": STEPS, "save_steps": 50, "num_workers": 1, "workers": WorkersSpec(min=1, max=2)}
    )
    start(elastic, settings)()
    assert losses(files) == calm
    assert [len(attempt.workers) for attempt in files.read_attempts()] == [1]
    assert receipts.read(files.storage, files.receipts) == []


def test_a_node_lost_for_good_with_no_room_elsewhere_ends_neither_the_run_nor_its_driver(
    nodes, calm, spec, settings, files
):
    second = nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    wait = start(spec.model_copy(update={"max_steps": STEPS, "save_steps": 50}), settings)
    until(lambda: len(files.read_steps()) >= 60, "steps with two workers")
    nodes.remove_node(second, allow_graceful=False)
    wait()
    assert losses(files) == calm
    proven("run-1", settings)
    assert len(files.read_attempts()[-1].workers) == 1
    (receipt,) = receipts.read(files.storage, files.receipts)
    assert receipt.failure_class in (FailureClass.NODE_LOST, FailureClass.WORKER_CRASH)


def test_a_node_that_comes_later_takes_the_place_of_one_that_was_lost(nodes, calm, spec, settings, files):
    second = nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    wait = start(spec.model_copy(update={"max_steps": STEPS, "save_steps": 50}), settings)
    until(lambda: len(files.read_steps()) >= 60, "steps with two workers")
    nodes.remove_node(second, allow_graceful=False)
    until(lambda: len(files.read_attempts()) >= 2, "a formation without the lost node")
    nodes.add_node(num_cpus=1)
    wait()
    assert losses(files) == calm
    proven("run-1", settings)
    assert [len(attempt.workers) for attempt in files.read_attempts()] == [2, 1, 2]


def test_a_crash_is_made_good_while_the_place_of_a_lost_node_is_missing(nodes, store, spec, settings, files):
    nodes.add_node(num_cpus=1)
    lost = nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    wait = start(spec.model_copy(update={"max_steps": STEPS, "save_steps": 50, "num_workers": 3}), settings)
    until(lambda: len(files.read_steps()) >= 20, "steps with three workers")
    nodes.remove_node(lost, allow_graceful=False)
    until(lambda: lost.node_id not in alive(), "the loss of the node")
    survivor, crashing = (worker.pid for worker in files.read_attempts()[-1].workers)
    os.kill(crashing, signal.SIGKILL)
    # Ray 2.60 takes the processors for itself while a place is missing, so a newcomer is not warm soon.
    until(lambda: len(train_workers() - {survivor, crashing}) == 1, "a process in the place of the crashed")
    nodes.add_node(num_cpus=1)
    wait()
    pids = [{worker.pid for worker in attempt.workers} for attempt in files.read_attempts()]
    assert len(pids[-1]) == 3
    assert all(survivor in attempt for attempt in pids)
    proven("run-1", settings)


def alive():
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def train_workers():
    here = psutil.Process().children(recursive=True)
    return {process.pid for process in here if process.name().startswith("ray::RayTrainW")}

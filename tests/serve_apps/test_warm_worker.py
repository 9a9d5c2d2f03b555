import subprocess
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path

import pytest

from serve_apps import warm_worker
from serve_apps.serve_settings import HOOK_VARIABLE
from serve_apps.warm_worker import STARTING_S, WarmWorker

KEY = "abc"


def here(tmp_path: Path) -> WarmWorker:
    return WarmWorker(tmp_path, KEY)


@pytest.fixture
def elsewhere(tmp_path):
    """Another process of the host, which offers itself, takes, or both, and stays until told to go."""
    running: list[subprocess.Popen[str]] = []

    def start(*steps: str) -> subprocess.Popen[str]:
        program = textwrap.dedent(f"""
            import sys
            from pathlib import Path
            from serve_apps.warm_worker import WarmWorker

            own = WarmWorker(Path({str(tmp_path)!r}), {KEY!r})
            print(*(getattr(own, step)() for step in {list(steps)!r}), flush=True)
            sys.stdin.read()
        """)
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        running.append(process)
        assert process.stdout is not None
        process.told = process.stdout.readline().split()
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_a_host_without_one_asks_once(tmp_path):
    first, second = here(tmp_path), here(tmp_path)
    assert first.is_missing(now=1000.0)
    assert not second.is_missing(now=1000.0 + STARTING_S / 2)
    assert second.is_missing(now=1000.0 + STARTING_S)


def test_a_clock_that_was_set_back_does_not_keep_it_from_asking(tmp_path):
    own = here(tmp_path)
    assert own.is_missing(now=9000.0)
    assert own.is_missing(now=1000.0)
    assert not own.is_missing(now=1000.0 + STARTING_S / 2)


@pytest.mark.parametrize("left", ["", "17e", "nan"])
def test_what_is_no_time_is_no_reason_not_to_ask(tmp_path, left):
    (tmp_path / f"linnet-asking-{KEY}").write_text(left)
    assert here(tmp_path).is_missing(now=1000.0)


def test_a_node_that_ray_does_not_name_is_an_error_that_is_told(monkeypatch):
    monkeypatch.setattr("ray.nodes", lambda: [{"NodeID": "b"}])
    with pytest.raises(OSError, match="no node a"):
        warm_worker._raylet("a")


def test_the_first_process_is_the_warm_one_until_it_is_taken(tmp_path, elsewhere):
    assert elsewhere("offer").told == ["True"]
    own = here(tmp_path)
    assert not own.offer()
    assert not own.is_free()
    assert not own.is_missing(now=1000.0)
    assert elsewhere("offer", "take").told == ["False", "None"]
    assert own.is_wanted()


def test_a_replica_leaves_its_place_to_another(tmp_path, elsewhere):
    assert elsewhere("offer", "take").told == ["True", "None"]
    own = here(tmp_path)
    assert own.is_missing(now=1000.0)
    assert own.offer()
    assert own.is_free()


def test_a_process_in_which_a_replica_has_begun_does_not_end_as_unused(tmp_path):
    own, left = here(tmp_path), []
    assert own.offer()
    own.end(left.append)
    own.take()
    own.end(left.append)
    assert left == [0]


def test_a_killed_process_holds_nothing(tmp_path, elsewhere):
    warm, replica = elsewhere("offer"), elsewhere("take")
    own = here(tmp_path)
    for process in (warm, replica):
        process.kill()
        process.wait()
    assert not own.is_wanted()
    assert own.is_missing(now=1000.0)


def ending(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A free warm worker that gives up after a third of a second without a replica on its host."""
    program = textwrap.dedent(f"""
        from pathlib import Path
        from serve_apps import warm_worker

        warm_worker.UNUSED_S, warm_worker._LOOK_S = 0.3, 0.05
        own = warm_worker.WarmWorker(Path({str(tmp_path)!r}), {KEY!r})
        assert own.offer()
        warm_worker._end_unused(own)
    """)
    return subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2])


def test_it_outlives_the_last_replica_of_its_host_by_a_while_only(tmp_path, elsewhere):
    replica, worker = elsewhere("take"), ending(tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(3)
    replica.kill()
    assert worker.wait(30) == 0


def test_other_environments_are_of_no_concern(tmp_path, elsewhere):
    assert elsewhere("offer", "take").told == ["True", "None"]
    other = WarmWorker(tmp_path, "another")
    assert not other.is_wanted()
    assert other.is_missing(now=1000.0)


def test_the_variables_name_the_environment():
    one, same, other = (warm_worker.variables({"env_vars": {"A": value}}) for value in "112")
    assert one == same
    assert one[warm_worker.KEY_VARIABLE] != other[warm_worker.KEY_VARIABLE]
    assert one[HOOK_VARIABLE] == warm_worker.HOOK


def test_the_private_call_holds_for_the_installed_ray():
    assert version("ray").startswith(warm_worker.HOLDS_FOR + ".")


def test_the_raylet_still_takes_the_call():
    from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc

    fields = set(node_manager_pb2.PrestartWorkersRequest.DESCRIPTOR.fields_by_name)
    assert fields == {"language", "job_id", "runtime_env_info", "keep_alive_duration_secs", "num_workers"}
    assert hasattr(node_manager_pb2_grpc.NodeManagerServiceServicer, "PrestartWorkers")

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.recovery.classes import Evidence, FailureClass, Signal, classify

# What Ray 2.60 says of any process that was killed, with its guesses.
KILLED = (
    "ActorDiedError: The actor died unexpectedly before finishing this task. The actor is dead because its "
    "worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits "
    "with a connection error code 2. End of file. Some common causes include: (1) the process was killed by "
    "the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed "
    "unexpectedly due to SIGSEGV or another unexpected error. If the process was killed by the kernel OOM "
    "killer (verifiable by checking for OOM in dmesg of the OOMing node), the node is low on memory."
)


@pytest.mark.parametrize(
    ("signal", "detail", "expected"),
    [
        (Signal.PROCESS_EXIT, "", FailureClass.WORKER_CRASH),
        (Signal.PROCESS_EXIT, KILLED, FailureClass.WORKER_CRASH),
        (Signal.PROCESS_EXIT, "Connection reset by peer", FailureClass.WORKER_CRASH),
        (
            Signal.PROCESS_EXIT,
            "The actor died because its node has died. Node Id: 3f",
            FailureClass.NODE_LOST,
        ),
        (Signal.PROCESS_EXIT, "Actor died by preemption.", FailureClass.NODE_LOST),
        (Signal.PROCESS_EXIT, "The actor is dead because its owner has died.", FailureClass.DRIVER_LOST),
        (
            Signal.PROCESS_EXIT,
            "1 worker(s) were killed due to the node running low on memory.",
            FailureClass.OUT_OF_MEMORY,
        ),
        (Signal.COLLECTIVE_ERROR, "RuntimeError: Connection closed by peer", FailureClass.NETWORK_STALL),
        (Signal.COLLECTIVE_ERROR, "", FailureClass.NETWORK_STALL),
        (Signal.RAISED, "torch.OutOfMemoryError: CUDA out of memory.", FailureClass.OUT_OF_MEMORY),
        (Signal.RAISED, "RuntimeError: DefaultCPUAllocator: not enough memory", FailureClass.OUT_OF_MEMORY),
        (Signal.RAISED, "MemoryError: ", FailureClass.OUT_OF_MEMORY),
        (Signal.RAISED, "OSError: [Errno 28] No space left on device", FailureClass.STORAGE_REFUSED),
        (Signal.RAISED, "StorageError: The disk below /data is full", FailureClass.STORAGE_REFUSED),
        (Signal.RAISED, "RuntimeError: [gloo/transport/tcp/pair.cc:598] Read", FailureClass.NETWORK_STALL),
        (Signal.RAISED, "ValueError: untyped_storage.size is 3", FailureClass.PROGRAM_ERROR),
        (Signal.RAISED, "KeyError: 'x'", FailureClass.PROGRAM_ERROR),
        (Signal.OUT_OF_MEMORY, "", FailureClass.OUT_OF_MEMORY),
        (Signal.NODE_GONE, "", FailureClass.NODE_LOST),
        (Signal.NODE_DRAINING, "", FailureClass.NODE_DRAINING),
        (Signal.NO_PROGRESS, "", FailureClass.HUNG_RANK),
        (Signal.NO_HEARTBEAT, "", FailureClass.HUNG_RANK),
        (Signal.SLOW_PROGRESS, "", FailureClass.SLOW_RANK),
        (Signal.NOT_FINITE, "", FailureClass.BAD_LOSS),
        (Signal.SPIKE, "", FailureClass.BAD_LOSS),
        (Signal.STORAGE_ERROR, "", FailureClass.STORAGE_REFUSED),
        (Signal.DRIVER_GONE, "", FailureClass.DRIVER_LOST),
        (Signal.HEAD_GONE, "", FailureClass.HEAD_LOST),
    ],
)
def test_signals_and_texts_have_their_class(signal, detail, expected):
    assert classify(Evidence(signal=signal, detail=detail)) is expected


@pytest.mark.parametrize(
    "signal", [Signal.PROCESS_EXIT, Signal.COLLECTIVE_ERROR, Signal.NO_HEARTBEAT, Signal.NO_PROGRESS]
)
def test_a_worker_whose_node_is_gone_did_not_crash_or_hang(signal):
    assert classify(Evidence(signal=signal, node_alive=False)) is FailureClass.NODE_LOST


def test_silence_is_a_hung_process_where_its_node_answers_and_a_cut_where_it_does_not():
    silent = Evidence(signal=Signal.NO_HEARTBEAT, node_alive=True, heartbeat_age_s=6.0)
    assert classify(silent.model_copy(update={"node_answers": True})) is FailureClass.HUNG_RANK
    assert classify(silent.model_copy(update={"node_answers": False})) is FailureClass.NETWORK_STALL


def test_a_worker_that_beats_is_no_cut_network():
    stuck = Evidence(signal=Signal.NO_PROGRESS, node_answers=False, heartbeat_age_s=0.2, peers_waiting=2)
    assert classify(stuck) is FailureClass.HUNG_RANK


@given(
    signal=st.sampled_from(Signal),
    detail=st.text() | st.sampled_from([KILLED, "out of memory", "node has died", "storage.full"]),
    node_alive=st.none() | st.booleans(),
    node_answers=st.none() | st.booleans(),
    peers_waiting=st.integers(0, 8),
)
def test_all_evidence_has_one_class(signal, detail, node_alive, node_answers, peers_waiting):
    evidence = Evidence(
        signal=signal,
        detail=detail,
        node_alive=node_alive,
        node_answers=node_answers,
        peers_waiting=peers_waiting,
    )
    assert classify(evidence) in FailureClass
    assert classify(evidence) is classify(evidence)

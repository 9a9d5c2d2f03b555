import os
import socket

import pytest

from cluster.doctor.ports import Holder, check_port, holder_of, is_taken


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_listener_is_found_with_its_process(listener):
    assert is_taken(listener)
    holder = holder_of(listener, None)
    assert holder.pid == os.getpid()
    assert not holder.ours


def test_what_descends_from_the_guard_is_ours(listener):
    assert holder_of(listener, os.getpid()).ours
    assert holder_of(listener, os.getppid()).ours
    assert not holder_of(listener, 2**22 + 1).ours


def test_a_free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert not is_taken(port)


@pytest.mark.parametrize(
    ("holder", "status"),
    [
        (None, "pass"),
        (Holder(pid=7, command="python -m http.server", ours=True), "pass"),
        (Holder(pid=7, command="/x/ray/core/gcs_server --port=1"), "warn"),
        (Holder(pid=7, command="ray::ProxyActor"), "warn"),
        (Holder(pid=7, command="python -m http.server"), "fail"),
        (Holder(pid=None), "fail"),
    ],
)
def test_who_holds_a_port_decides(holder, status):
    check = check_port("endpoint", 8000, "--serve-port", holder)
    assert check.status == status
    if status != "pass":
        assert str(holder) in check.found
        assert "--serve-port" in check.mend

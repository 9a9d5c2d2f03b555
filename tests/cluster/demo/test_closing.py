from __future__ import annotations

import socket
import subprocess
import sys

import psutil
import pytest

from cluster.demo import closing
from cluster.errors import LinnetError


def test_a_process_and_a_port_that_outlive_the_cluster_are_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(closing, "_END_S", 0.2)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with pytest.raises(LinnetError, match=rf"pid {child.pid}, a listener on port {port}") as caught:
                closing.require_gone([psutil.Process(child.pid)], port)
    finally:
        child.communicate(b"\n")
    assert caught.value.code == "demo.left_behind"


def test_nothing_left_is_fine():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    child = subprocess.Popen([sys.executable, "-c", ""])
    process = psutil.Process(child.pid)
    child.wait()
    closing.require_gone([process], port)
    assert closing._descendants(child.pid) == []

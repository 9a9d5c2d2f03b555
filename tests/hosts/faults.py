"""What can befall a host: each a context manager that takes the fault back, unless the host has died.

Killing a host is `Host.kill`. All are made from outside of it, so that they work without its network.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil

from tests.hosts.host import Host
from tests.hosts.system import sh

MAX_FILL_BYTES = 1 << 30


@contextmanager
def cut(host: Host) -> Iterator[None]:
    """Pull its network cable. What it sends to its own address still arrives."""
    sh(*host.on_switch("ip", "link", "set", host.port, "down"))
    with _taken_back(host, lambda: sh(*host.on_switch("ip", "link", "set", host.port, "up"))):
        yield


@contextmanager
def lose_packets(host: Host, share: float) -> Iterator[None]:
    """Drop this share (0 to 1) of the packets that arrive at it, at random; those that it sends all leave."""
    rule = (
        "INPUT",
        "!",
        "-i",
        "lo",
        "-m",
        "statistic",
        "--mode",
        "random",
        "--probability",
        str(share),
        "-j",
        "DROP",
    )
    sh(*host.enter("--net"), "iptables", "-I", *rule)
    with _taken_back(host, lambda: sh(*host.enter("--net"), "iptables", "-D", *rule)):
        yield


@contextmanager
def throttle(host: Host, bits_per_second: int) -> Iterator[None]:
    """Narrow its cable to so many bits a second each way; what would wait longer than 0.4 s is dropped."""
    ends = [(host.enter("--net"), "eth0"), (host.on_switch(), host.port)]
    burst = max(16_384, bits_per_second // 800)
    limit = ("tbf", "rate", f"{bits_per_second}bit", "burst", str(burst), "latency", "400ms")
    for where, device in ends:
        sh(*where, "tc", "qdisc", "add", "dev", device, "root", *limit)
    with _taken_back(host, lambda: [sh(*at, "tc", "qdisc", "del", "dev", dev, "root") for at, dev in ends]):
        yield


def small_disk(host: Host, path: str, mebibytes: int) -> None:
    """Mount an empty disk of this size at `path` of the host, hiding what is there, until the host dies."""
    host.inside(f"mkdir -p {path} && mount -t tmpfs -o size={mebibytes}m tmpfs {path}")


@contextmanager
def full_disk(host: Host, path: str) -> Iterator[None]:
    """Fill the disk that `path` lies on to the last byte; ValueError where more than 1 GiB of it is free."""
    free = int(host.inside(f"df --output=avail -B1 {path} | tail -1"))
    if free > MAX_FILL_BYTES:
        raise ValueError(f"{path} of {host.name} has {free} bytes free: give it a small_disk() first")
    filler = f"{path}/.filler"
    with suppress(subprocess.CalledProcessError):  # dd ends with "No space left on device"
        host.inside(f"dd if=/dev/zero of={filler} bs=4k")
    with _taken_back(host, lambda: host.inside(f"rm {filler}")):
        yield


@contextmanager
def freeze(host: Host, pattern: str = "") -> Iterator[list[psutil.Process]]:
    """Stop (SIGSTOP) its processes whose command line matches, all of them without a pattern; yields them."""
    frozen = host.processes(pattern)
    if not frozen:
        raise ValueError(f"no process of {host.name} matches {pattern!r}")
    try:
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        _wait_until_stopped(frozen)
        yield frozen
    finally:
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def _wait_until_stopped(processes: list[psutil.Process]) -> None:
    deadline = time.monotonic() + 10
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{process} does not stop")
                time.sleep(0.005)


@contextmanager
def _taken_back(host: Host, undo: Callable[[], object]) -> Iterator[None]:
    """Call `undo` at the end, if the host has not died since: a fault dies with it."""
    born = host.init
    try:
        yield
    finally:
        if host.init == born:
            undo()

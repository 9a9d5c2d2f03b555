"""Hosts on a switch: made together, reached by name, and gone together."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.host import Host
from tests.hosts.system import DIES_WITH_US, SEARCH_PATH, sh

# Private, and seen by nobody outside the namespaces: any number of networks may use it at once.
SUBNET = "10.87.0"
SWITCH = f"""
ip link set lo up
ip link add switch type bridge
ip address add {SUBNET}.1/24 dev switch
ip link set switch up
{{disk}}
echo ready
exec sleep infinity
"""


@dataclass(frozen=True)
class Network:
    """The hosts on one switch, by name."""

    hosts: dict[str, Host]
    directory: Path
    key: Path

    @property
    def shared(self) -> Path:
        """On this machine; /mnt/linnet on every host."""
        return self.directory / "shared"

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def boot(self, name: str) -> None:
        """Bring back a host that was killed."""
        self.hosts[name].boot(self.shared)

    @classmethod
    @contextmanager
    def create(cls, names: Sequence[str], *, disk_mebibytes: int = 0) -> Iterator[Network]:
        """Boot a host for each name (at most 12 letters each), and leave nothing of them afterwards.

        With `disk_mebibytes` all of them share an empty disk of this size too, /mnt/linnet/disk, which
        `faults.full_disk` fills; this machine sees it through a host only.
        """
        with ExitStack() as stack:
            directory = Path(tempfile.mkdtemp(prefix="linnet-hosts-"))
            stack.callback(shutil.rmtree, directory)
            disk = directory / "shared" / "disk"
            disk.mkdir(parents=True)
            mount = f"mount -t tmpfs -o size={disk_mebibytes}m tmpfs {disk}" if disk_mebibytes else ""
            switch = _start_switch(stack, mount)
            key = directory / "id_ed25519"
            sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
            addresses = {name: f"{SUBNET}.{10 + place}" for place, name in enumerate(names)}
            hosts = {
                name: Host(name, address, _disk(directory / name, addresses), switch, key)
                for name, address in addresses.items()
            }
            network = cls(hosts, directory, key)
            for host in hosts.values():
                stack.callback(host.kill)
                host.boot(network.shared)
            yield network


def _disk(directory: Path, addresses: dict[str, str]) -> Path:
    """A new host's directory, with the two files that name the others (and nobody else)."""
    etc = directory / "etc"
    etc.mkdir(parents=True)
    lines = [f"{address} {name}\n" for name, address in addresses.items()]
    (etc / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
    (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    return directory


def _start_switch(stack: ExitStack, mount: str) -> int:
    """PID of the process that holds the switch's network open, and the mounts that all hosts have."""
    process = subprocess.Popen(
        [*DIES_WITH_US, "unshare", "--net", "--mount", "sh", "-ec", SWITCH.format(disk=mount)],
        env={"PATH": SEARCH_PATH},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    stack.callback(_end, process)
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        raise RuntimeError("the switch did not start")
    return process.pid


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(timeout=30)
    assert process.stdout is not None
    process.stdout.close()

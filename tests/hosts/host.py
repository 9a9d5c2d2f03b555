"""One host: its namespaces, its sshd, its processes."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from tests.hosts.system import DIES_WITH_US, SEARCH_PATH, kept_paths, session_environment, sh

BOOT = Path(__file__).with_name("boot.sh")
SSHD = """Port 22
HostKey /run/host/host_key
AuthorizedKeysFile /run/host/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
UseDNS no
PrintMotd no
PrintLastLog no
MaxStartups 100
SetEnv {environment}
"""
SSH_OPTIONS = (
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
    "LogLevel=ERROR",
    "ConnectTimeout=5",
)
ALL = ("--net", "--mount", "--pid", "--uts", "--ipc")
_SHOWN = 3000
NEW = (*ALL, "--fork", "--mount-proc", "--kill-child")


@dataclass
class Host:
    """A machine on the switch whose network, and the mounts that all share, process `switch` holds.

    Boot it from the main thread: its processes end with the thread that booted it.
    """

    name: str
    address: str
    directory: Path
    """On this machine; home/, tmp/ and etc/ of the host lie in it and outlast a kill, as a disk would."""
    switch: int
    key: Path
    """Private key with which root of this machine and of every host logs in."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    init: int | None = None
    """PID, on this machine, of the host's first process; None while it is down."""

    @property
    def port(self) -> str:
        """Name of its end of the cable in the switch's namespace."""
        return f"to-{self.name}"

    def boot(self, shared: Path) -> None:
        """Start it, or start it again after `kill`: home and /tmp are as they were, nothing runs but sshd."""
        self._write_sshd()
        with (self.directory / "console.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *DIES_WITH_US,
                    *("nsenter", "--target", str(self.switch), "--mount", "--"),
                    "unshare",
                    *NEW,
                    BOOT,
                    self.name,
                    self.directory,
                    shared,
                    *kept_paths(),
                ],
                env={"PATH": SEARCH_PATH},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.init = self._first_process()
        self._plug_in()
        self._wait_for_ssh()

    def run(
        self, command: str, *, timeout: float = 60.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command by ssh, from the switch; raises CalledProcessError, with its output noted.

        With `check` off nothing is raised, and exit status 255 says that the host could not be reached.
        """
        done = subprocess.run(
            self._ssh(command), capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            failed = subprocess.CalledProcessError(done.returncode, f"{self.name}: {command}")
            failed.add_note(f"{done.stdout[-_SHOWN:]}\n{done.stderr[-_SHOWN:]}")
            raise failed
        return done

    def start(
        self, command: str, *, stdout: IO[str] | int = subprocess.PIPE, with_input: bool = False
    ) -> subprocess.Popen[str]:
        """Start a shell command by ssh and return at once; output and errors together go to `stdout`.

        `with_input` gives it a pipe to read from.
        """
        stdin = subprocess.PIPE if with_input else None
        return subprocess.Popen(
            self._ssh(command), stdin=stdin, stdout=stdout, stderr=subprocess.STDOUT, text=True
        )

    def inside(self, command: str, *, timeout: float = 60.0) -> str:
        """Run a shell command at the console, which works when the network does not; returns its output."""
        return sh(*self.enter(*ALL), "sh", "-c", command, timeout=timeout)

    def enter(self, *namespaces: str) -> list[str]:
        """The command line that puts what follows it into these namespaces of the host."""
        if self.init is None:
            raise RuntimeError(f"host {self.name} is down; boot() it first")
        return ["nsenter", "--target", str(self.init), *namespaces]

    def processes(self, pattern: str = "") -> list[psutil.Process]:
        """Its processes whose command line matches a regular expression; PIDs are this machine's."""
        if self.init is None:
            return []
        own = Path(f"/proc/{self.init}/ns/pid").readlink()
        return [p for p in psutil.process_iter() if _lives_in(p, own) and _matches(p, pattern)]

    def kill(self) -> None:
        """The power fails: the cable goes silent, then every process ends at once, unasked."""
        if self.init is None:
            return
        assert self.process is not None
        processes, init = self.processes(), psutil.Process(self.init)
        self.init = None
        sh(*self.on_switch("ip", "link", "delete", self.port))
        init.kill()
        self.process.wait(timeout=30)
        _, alive = psutil.wait_procs(processes, timeout=30)
        if alive:
            raise RuntimeError(f"processes of {self.name} outlived it: {alive}")

    def on_switch(self, *command: str) -> list[str]:
        """`command` in the switch's network namespace."""
        return ["nsenter", "--target", str(self.switch), "--net", *command]

    def _ssh(self, command: str) -> list[str]:
        flags = [word for option in SSH_OPTIONS for word in ("-o", option)]
        return self.on_switch(
            "ssh", "-F", "none", "-i", str(self.key), *flags, f"root@{self.address}", command
        )

    def _write_sshd(self) -> None:
        etc = self.directory / "etc"
        if not (etc / "host_key").exists():
            sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(etc / "host_key"))
        environment = " ".join(
            f"{name}={shlex.quote(value)}" for name, value in session_environment().items()
        )
        (etc / "sshd_config").write_text(SSHD.format(environment=environment))
        (etc / "authorized_keys").write_text(self.key.with_suffix(".pub").read_text())

    def _first_process(self) -> int:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := children.read_text().split():
                return int(found[0])
            time.sleep(0.01)
        raise RuntimeError(f"host {self.name} did not start:\n{self._console()}")

    def _plug_in(self) -> None:
        peer = ("peer", "name", "eth0", "netns", str(self.init))
        sh(*self.on_switch("ip", "link", "add", self.port, "type", "veth", *peer))
        sh(*self.on_switch("ip", "link", "set", self.port, "master", "switch", "up"))
        gateway = f"{self.address.rpartition('.')[0]}.1"
        # The same card after a kill: the others remember its hardware address.
        card = "02:00:" + ":".join(f"{int(part):02x}" for part in self.address.split("."))
        for command in (
            "link set lo up",
            f"link set eth0 address {card}",
            f"address add {self.address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {gateway}",
        ):
            sh(*self.enter("--net"), "ip", *command.split())

    def _wait_for_ssh(self) -> None:
        deadline = time.monotonic() + 20
        while self.run("true", check=False).returncode:
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"host {self.name} answers no ssh:\n{self._console()}")
            time.sleep(0.1)

    def _console(self) -> str:
        return (self.directory / "console.log").read_text()


def _lives_in(process: psutil.Process, namespace: Path) -> bool:
    try:
        return Path(f"/proc/{process.pid}/ns/pid").readlink() == namespace
    except OSError:
        return False


def _matches(process: psutil.Process, pattern: str) -> bool:
    try:
        return re.search(pattern, " ".join(process.cmdline())) is not None
    except psutil.Error:
        return False

"""What this machine must offer before hosts can be made on it, and how commands are run on it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
COMMANDS = ("ip", "tc", "iptables", "rsync", "sshd", "ssh", "ssh-keygen", "unshare", "nsenter", "setpriv")
SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
# With the process that starts it, the command ends too, and so do the namespaces that it holds open.
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
# One try of each part, in namespaces that end with the shell.
TRIAL = """
ip link add switch type bridge && ip link add port type veth peer name other &&
tc qdisc add dev port root tbf rate 1mbit burst 16kb latency 400ms &&
iptables -A INPUT -m statistic --mode random --probability 0.5 -j DROP && mount -t tmpfs tmpfs /mnt
"""


def sh(*command: str, timeout: float = 60.0) -> str:
    """Standard output of `command`; raises CalledProcessError with its output when it fails."""
    done = subprocess.run(
        command,
        env={**os.environ, "PATH": SEARCH_PATH},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, f"\n{done.stdout}")
    return done.stdout


@functools.cache
def why_not() -> str | None:
    """Why no hosts can be made here, or None. As root it first installs what is missing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts are made of Linux namespaces, by root"
    setup = subprocess.run([CHECKOUT / ".dev/setup-hosts"], capture_output=True, text=True, check=False)
    missing = [name for name in COMMANDS if shutil.which(name, path=SEARCH_PATH) is None]
    if missing:
        return f"missing: {', '.join(missing)}; .dev/setup-hosts said: {setup.stderr.strip()}"
    try:
        sh(
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--fork",
            "--mount-proc",
            "sh",
            "-ec",
            TRIAL,
        )
    except subprocess.CalledProcessError as error:
        return f"this kernel lacks what hosts are made of: {error.output.strip()}"
    return None


@functools.cache
def environment_cache() -> Path:
    """The directory with the installed packages, which .dev/setup made and every host may read."""
    return Path(sh("bash", "-c", f". {CHECKOUT}/.dev/lib.sh && printf %s $CACHE_ROOT"))


def kept_paths() -> list[Path]:
    """What of this machine a host must see even where it has a directory of its own in the way."""
    return [CHECKOUT, environment_cache(), Path(sys.base_prefix)]


def session_environment() -> dict[str, str]:
    """Variables of every ssh session on a host: with them .dev/setup finds the installed packages at once.

    The hosts share the cores of one machine, and Ray's head spins while the place of a lost host has no other
    (ray-project/ray#65007): workers that yield to everything, as Ray's do, would hardly get a turn.
    """
    python = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    return {
        "LINNET_ENV_CACHE": str(environment_cache()),
        "LINNET_PYTHON": str(python),
        "RAY_worker_niceness": "0",
    }

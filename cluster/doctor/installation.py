"""The storage root, the state database and Ray."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import make_url, text
from sqlalchemy.exc import ArgumentError

from cluster import runtime
from cluster.config import Settings
from cluster.doctor.check import Check, graded
from cluster.errors import LinnetError
from cluster.state.database import open_database
from cluster.storage import Storage

_RAY_ANSWER_S = 2.0


def examine(settings: Settings) -> list[Check]:
    """What this installation reads and writes, and the cluster that it would use."""
    return [check_root(settings.root), check_state(settings.state_url), check_ray(ray_address(settings))]


def check_root(root: str) -> Check:
    """A file can be written below the root, read again and removed."""
    probe = f".doctor-{uuid.uuid4().hex}"
    try:
        storage = Storage(root)
        with _directories_as_before(storage):
            storage.write_atomic(probe, probe.encode())
            same = storage.read_bytes(probe) == probe.encode()
            storage.delete_file(probe)
    except (LinnetError, OSError) as error:
        mend = "make it writable, or name another place (LINNET_HOME, LINNET_ROOT or --root)"
        return graded("storage root", _first_line(error), fails=mend)
    mend = "" if same else "the file system gives back other bytes than were written: do not use it"
    return graded("storage root", f"{root} can be written", fails=mend)


@contextlib.contextmanager
def _directories_as_before(storage: Storage) -> Iterator[None]:
    root = storage.local_path("") if storage.is_local else None
    created = [place for place in (root, *root.parents) if not place.exists()] if root else []
    try:
        yield
    finally:
        for place in created:
            with contextlib.suppress(OSError):
                place.rmdir()


def check_state(url: str) -> Check:
    """The state database answers; an SQLite file that is not there yet is made at first use."""
    try:
        location = make_url(url)
        shown = location.render_as_string(hide_password=True)
        if location.get_backend_name() == "sqlite" and not Path(location.database or "").exists():
            return graded("state database", f"{shown}, made at first use")
        with open_database(url).snapshot() as session:
            session.execute(text("SELECT 1"))
    except (LinnetError, ArgumentError, ImportError) as error:
        mend = "check LINNET_STATE_URL and its driver, and that the database runs and may be written"
        return graded("state database", _first_line(error), fails=mend)
    return graded("state database", f"{shown} answers")


def ray_address(settings: Settings) -> str | None:
    """`host:port` of the cluster that commands would use; None where each starts one of its own."""
    cluster = runtime.current(settings)
    return os.environ.get("RAY_ADDRESS") or (cluster.address if cluster else None)


def check_ray(address: str | None) -> Check:
    """The cluster that is named answers; none at all is fine."""
    if address is None:
        return graded("Ray", "not running; `linnet up` starts it")
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or port is None:
        mend = "set RAY_ADDRESS to host:port, or unset it to use the cluster of `linnet up`"
        return graded("Ray", f"RAY_ADDRESS is `{address}`, which names no port", warns=mend)
    try:
        with socket.create_connection((host, port), timeout=_RAY_ANSWER_S):
            return graded("Ray", f"answers at {address}")
    except OSError as error:
        mend = "start it (`linnet up`), or unset RAY_ADDRESS"
        return graded("Ray", f"nothing answers at {address}: {error.strerror or error}", fails=mend)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

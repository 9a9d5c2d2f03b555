"""This worker's log beside the run; on an object store Ray's own session logs have it."""

from __future__ import annotations

import logging

from train_jobs.run_files import RunFiles

_LOG = logging.getLogger("train_jobs")


def log_to_file(files: RunFiles, attempt: int, rank: int) -> None:
    """From now on write to the file of this attempt and rank."""
    if not files.storage.is_local:
        return
    directory = files.storage.local_path(files.logs)
    directory.mkdir(parents=True, exist_ok=True)
    for old in list(_LOG.handlers):
        _LOG.removeHandler(old)
        old.close()
    handler = logging.FileHandler(directory / f"attempt_{attempt}_rank_{rank}.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)

"""Whether the cluster has room for a run, also before anything is started."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from cluster import runtime
from cluster.config import Settings
from cluster.registry import ModelStore
from train_jobs.base_config import read_config
from train_jobs.planning import Plan

if TYPE_CHECKING:
    from train_jobs.encoded import EncodedData


def require_room(todo: Plan, settings: Settings, *encoded: EncodedData) -> None:
    """Raise ConfigError when the cluster that this process is attached to cannot hold the workers."""
    from train_jobs import fit

    store = ModelStore.open(settings)
    config = read_config(store.storage, todo.base)
    fit.require_room(todo.spec, store.manifest(todo.base).parameters, config, encoded)


def was_checked(todo: Plan, settings: Settings) -> bool:
    """Hold a plan against the cluster that stands; False where none does, and none is started for it.

    Raises what `require_room` raises. A run that is trained, and has but to be published, fits anywhere.
    """
    from train_jobs import fit

    if todo.end is not None:
        return True
    if not os.environ.get("RAY_ADDRESS") and runtime.current(settings) is None:
        return False
    fit.set_environment()
    with contextlib.redirect_stdout(sys.stderr):
        try:
            runtime.attach(settings)
        except ConnectionError:
            return False
        require_room(todo, settings)
    return True

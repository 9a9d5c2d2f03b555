"""The controller as a Serve application of one replica: Serve places it, and replaces it when it is lost."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any, Self

from pydantic import Field, PositiveFloat, model_validator
from ray import serve
from ray.serve.deployment import Application

from cluster.config import StrictModel, validate
from cluster.errors import GateFailedError, LinnetError
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from serve_apps.rollout import checking, declared, given_up
from serve_apps.rollout.asking import Asking
from serve_apps.rollout.controller import Controller
from serve_apps.rollout.outside.placeholders import Names
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.serve_settings import ONE_LOOP

_log = logging.getLogger(__name__)


class ControllerArgs(StrictModel):
    """`rollouts`: by model, what the endpoint's YAML declares. `url`: of the endpoint, as hosts reach it.

    `tick_s`: how often it is looked whether something is due.
    """

    rollouts: dict[str, RolloutSpec] = Field(default_factory=dict)
    url: str = "http://127.0.0.1:8000"
    tick_s: PositiveFloat = 0.5

    @model_validator(mode="after")
    def _names_candidates(self) -> Self:
        for model, spec in self.rollouts.items():
            if spec.candidate is None:
                raise ValueError(f"the rollout of `{model}` names no `candidate`")
        return self


class RolloutController:
    """One life of the controller, in a thread of its own; Serve keeps one."""

    def __init__(self, args: ControllerArgs) -> None:
        self._args = args
        self._stop = threading.Event()
        self._store = ModelStore.open()
        self._asking = Asking(self._store.database, args.url, os.environ, given_up.by_serve)
        self._thread = threading.Thread(target=self._run, name="linnet-rollouts", daemon=True)
        self._thread.start()

    def check_health(self) -> None:
        """Serve's health check: one that has been superseded, or has failed, is replaced."""
        if not self._thread.is_alive():
            raise GateFailedError("The controller of rollouts has ended.")

    def __del__(self) -> None:
        """Serve's hook at the end of a graceful stop."""
        self._stop.set()
        self._thread.join(timeout=10)
        self._asking.close()

    def _run(self) -> None:
        try:
            declared.forget_others(self._store, self._args.rollouts)
            left = declared.begin_all(self._store, self._args.rollouts)
            controller = Controller(
                self._store, serve.get_replica_context().replica_tag, outside=self._asking
            )
            while not self._stop.wait(self._args.tick_s):
                left = declared.begin_all(self._store, left)
                self._tick(controller)
        except Exception:
            _log.exception("the controller of rollouts ends")

    def _tick(self, controller: Controller) -> None:
        try:
            controller.tick()
        except LinnetError as error:
            if not error.retryable:
                raise
            _log.warning("no look for now: %s", error)


def build(args: dict[str, Any]) -> Application:
    """The application; raises what is known of its policies beforehand, so that `serve deploy` refuses."""
    parsed = validate(args, ControllerArgs, source="args")
    store = ModelStore.open()
    for model, spec in parsed.rollouts.items():
        store.manifest(VersionRef(model=model, version=spec.candidate or ""))
        stable = store.aliases(model).get("stable", "")
        checking.check(spec, Names(model, spec.candidate or "", stable), os.environ)
    deployment = serve.deployment(
        RolloutController,
        name="rollouts",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": ONE_LOOP}},
        health_check_period_s=2,
        graceful_shutdown_timeout_s=15,
    )
    return deployment.bind(parsed)

"""Judged rollouts under everything that may happen to them, at any moment: what must always hold."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cluster.errors import ConflictError
from serve_apps.rollout.states import Approve, Command, Pause, Promote, Resume, Rollback, SetWeight, Start
from tests.serve_apps.rollout import world
from tests.serve_apps.rollout.model_world import MANNERS, ModelWorld
from tests.serve_apps.rollout.world import MODEL, VERSIONS

RATIOS = [
    {"metric": "error_rate", "max_ratio": 1.5, "tolerate": "5%", "min_samples": 20},
    {"metric": "ttft", "quantile": 0.5, "max_ratio": 1.5, "min_samples": 20},
]
SPECS: list[dict[str, Any]] = [
    {"steps": [{"weight": 20}, {"weight": 60}, {"weight": 100}], "gates": RATIOS},
    {"steps": [{"weight": 50}, {"approve": True}, {"weight": 100}], "gates": RATIOS},
    {"steps": [{"weight": 30}, {"weight": 100}], "gates": RATIOS, "on_fail": "pause"},
    {
        "steps": [{"weight": 25, "hold": "10s"}, {"weight": 100, "soak": "20s"}],
        "gates": [*RATIOS, {"metric": "error_rate", "max": "30%", "for": "30s", "min_samples": 20}],
        "on_inconclusive": "rollback",
        "deadline": "2m",
    },
    {
        "steps": [{"weight": 40}, {"weight": 100, "soak": "40s"}],
        "gates": RATIOS,
        "on_inconclusive": "rollback",
        "deadline": "15s",
    },
]
BY_HAND: list[Command] = [
    *(2 * [Pause(model=MODEL), Resume(model=MODEL), Approve(model=MODEL)]),
    Promote(model=MODEL),
    Rollback(model=MODEL),
    Rollback(model=MODEL, force=True),
    SetWeight(model=MODEL, weight=30.0),
    *(Start(model=MODEL, candidate=version, weight=10.0) for version in VERSIONS),
]
ANY_VERSION, ANY_SPEC = st.sampled_from(VERSIONS), st.sampled_from(SPECS)
ANY_COMMAND, A_WHILE = st.sampled_from(BY_HAND), st.integers(3, 20)


class JudgedRollouts(RuleBasedStateMachine):
    template: Path

    @initialize(seed=st.integers(0, 1000), spec=ANY_SPEC)
    def a_rollout_begins(self, seed: int, spec: dict[str, Any]) -> None:
        home = Path(tempfile.mkdtemp(dir=self.template.parent))
        shutil.copytree(self.template, home, dirs_exist_ok=True)
        self.world = ModelWorld(home, seed)
        self.world.begin("v2", spec, replace=False)

    @rule(version=ANY_VERSION, manner=st.sampled_from(sorted(MANNERS)))
    def version_changes(self, version: str, manner: str) -> None:
        self.world.manners[version] = MANNERS[manner]

    @rule(requests=st.sampled_from([0, 30, 200]), seconds=st.sampled_from([1, 5, 40]))
    def traffic(self, requests: int, seconds: float) -> None:
        self.world.traffic(requests, seconds)

    @rule(times=A_WHILE)
    def time_goes_by(self, times: int) -> None:
        self.world.seconds_pass(times, self.world.tick)

    @rule(times=A_WHILE, candidate=ANY_VERSION, spec=ANY_SPEC)
    def all_is_mended_and_time_goes_by(self, times: int, candidate: str, spec: dict[str, Any]) -> None:
        self.world.mend()
        if not self.world.active():
            self.world.begin(candidate, spec, replace=True)
        self.world.tick()
        self.world.traffic(100, 31)
        before, active = self.world.facts.looks.copy(), self.world.active()
        self.world.tick()
        # Whatever has happened, those that run are looked at.
        assert all(self.world.facts.looks[rollout] > before[rollout] for rollout in active)
        self.world.seconds_pass(times, self.world.tick)

    @rule(times=A_WHILE, statement=st.integers(0, 40))
    def time_goes_by_and_controllers_are_killed(self, times: int, statement: int) -> None:
        self.world.seconds_pass(times, lambda: self.world.tick_killed(statement))

    @rule()
    def gateway_starts(self) -> None:
        self.world.gateway_starts()

    @precondition(lambda self: self.world.gateways)
    @rule(which=st.integers(0, 2))
    def gateway_dies(self, which: int) -> None:
        self.world.gateway_dies(which)

    @precondition(lambda self: self.world.gateways)
    @rule(which=st.integers(0, 2), times=st.integers(3, 12), ends=st.booleans())
    def gateway_lags(self, which: int, times: int, ends: bool) -> None:
        gateway = self.world.gateways[which % len(self.world.gateways)]
        gateway.lags = True
        self.world.seconds_pass(times, self.world.tick)
        gateway.lags = not ends

    @rule(seconds=st.sampled_from([-86_000, -3600, -20, 20, 3600, 80_000]))
    def clock_jumps(self, seconds: float) -> None:
        self.world.clock.pass_(seconds)

    @rule(version=ANY_VERSION)
    def replica_comes(self, version: str) -> None:
        self.world.replica_comes(version)

    @rule(version=ANY_VERSION, how=st.sampled_from(["stops", "is killed", "is refused"]))
    def replica_goes(self, version: str, how: str) -> None:
        self.world.replica_goes(version, how)

    @rule(
        candidate=ANY_VERSION,
        spec=ANY_SPEC,
        replace=st.sampled_from([False, False, True]),
        attempt=st.integers(1, 3),
    )
    def begin(self, candidate: str, spec: dict[str, Any], replace: bool, attempt: int) -> None:
        self.world.begin(candidate, spec, replace=replace, attempt=attempt)

    @rule(command=ANY_COMMAND, killed_after=st.none() | st.integers(0, 25))
    def by_hand(self, command: Command, killed_after: int | None) -> None:
        self.world.by_hand(command, killed_after)

    @rule()
    def controller_ticks(self) -> None:
        self.world.tick()

    @rule()
    def controller_starts(self) -> None:
        self.world.controller_starts()

    @precondition(lambda self: len(self.world.controllers) > 1)
    @rule(which=st.integers(0, 9))
    def superseded_controller_writes_nothing(self, which: int) -> None:
        older = self.world.controllers[:-1]
        before = world.dump(self.world.store)
        with contextlib.suppress(ConflictError):
            older[which % len(older)].tick()
        assert world.dump(self.world.store) == before

    @rule()
    def another_takes_over_during_a_tick(self) -> None:
        self.world.tick_while(self.world.take_over)

    @rule(command=ANY_COMMAND)
    def person_acts_during_a_tick(self, command: Command) -> None:
        self.world.tick_while(lambda: self.world.by_hand(command))

    @rule(candidate=ANY_VERSION, spec=ANY_SPEC)
    def another_begins_during_a_tick(self, candidate: str, spec: dict[str, Any]) -> None:
        self.world.tick_while(lambda: self.world.begin(candidate, spec, replace=True))

    @rule()
    def traffic_comes_during_a_tick(self) -> None:
        self.world.tick_while(lambda: self.world.traffic(100, 1))

    @invariant()
    def all_is_well(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.world.check_that_all_is_counted()
            self.world.check_that_all_is_reproduced()
        finally:
            self.world.close()


def model_check(tmp_path: Path, *, examples: int, steps: int) -> None:
    template = tmp_path / "template"
    world.make_store(template).database.dispose()
    JudgedRollouts.template = template
    run_state_machine_as_test(
        JudgedRollouts,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


def test_whatever_happens_rollouts_weights_and_records_agree(tmp_path):
    model_check(tmp_path, examples=10, steps=40)


@pytest.mark.slow
def test_whatever_happens_for_long_they_agree(tmp_path):
    model_check(tmp_path, examples=300, steps=80)

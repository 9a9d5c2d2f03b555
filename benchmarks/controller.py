"""What a look costs: by the number of observations, and by the number of rollouts.

A look is from the gateways' rows to the stored outcome; `judge` is the part of it that gates take, with all
default gates and a quantile with an absolute limit. `progress` is what a rollout keeps between looks. How
long a change of weight takes to reach a gateway is measured where gateways are: `tests/e2e/test_rollouts.py`
tells it.

    python benchmarks/controller.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from cluster.state import tallies
from cluster.state.tables import RolloutRow, utc_now
from cluster.tally import VersionTally
from serve_apps.rollout.controller import Controller
from serve_apps.rollout.look import look
from serve_apps.rollout.looks import Counted, LookInputs, Progress, Signals
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.spec import DEFAULT_GATES, RolloutSpec
from serve_apps.rollout.states import Phase
from serve_apps.sketch import bucket_of
from tests.serve_apps.rollout import world

GATE_ASK_MS = 1.0
STRATA = tuple(f"p{prompt}a{answer}" for prompt in range(3) for answer in range(3))
SPEC = RolloutSpec.model_validate(
    {
        "candidate": "v2",
        "steps": [{"weight": 50, "hold": "30d"}, {"weight": 100}],
        "gates": [
            *(gate.model_dump(mode="json", by_alias=True, exclude_none=True) for gate in DEFAULT_GATES),
            {"metric": "ttft", "quantile": 0.99, "max": "60s"},
        ],
    }
)
LOOKS = 20


def sketch(draw: np.random.Generator, number: int) -> dict[str, Any]:
    """So many log-normal values, counted by bucket; beyond a million the shape of a million."""
    shape = draw.lognormal(-2, 0.5, min(number, 100_000))
    buckets, counts = np.unique([bucket_of(value) for value in shape], return_counts=True)
    scaled = np.maximum(counts * number // len(shape), 1)
    return {"zeros": 0, "buckets": [[int(b), int(c)] for b, c in zip(buckets, scaled, strict=True)]}


def tally(draw: np.random.Generator, number: int) -> dict[str, Any]:
    """A version's, of so many requests over all strata."""
    part = max(number // len(STRATA), 1)
    errors = int(draw.binomial(number, 0.001))
    sketches = {metric: {one: sketch(draw, part) for one in STRATA} for metric in ("ttft", "itl")}
    counts = {
        "requests": number,
        "asked": number,
        "errors": errors,
        "texts": number,
        "empty": 0,
        "repetition": 0,
    }
    return {"counts": counts, "sketches": sketches}


def by_observations(number: int) -> dict[str, float]:
    """`LOOKS` looks at one rollout, which see `number` requests of each version together."""
    draw, progress, took, now = np.random.default_rng(1), Progress(), [], utc_now()
    signals = Signals(phase=Phase.PROGRESSING, step=0, approved=-1, weight=50, revision=1, gateways={"g": 1})
    for index in range(LOOKS):
        counted = Counted(
            revision=1,
            candidate=VersionTally.model_validate(tally(draw, max(number // LOOKS, 9))),
            baseline=VersionTally.model_validate(tally(draw, max(number // LOOKS, 9))),
        )
        inputs = LookInputs(at=now + timedelta(seconds=index), signals=signals, counted=(counted,))
        began = time.perf_counter()
        progress, _ = look(SPEC, progress, inputs)
        took.append(time.perf_counter() - began)
    return {
        "gate_ms": statistics.median(took) * 1000 / len(SPEC.gates),
        "progress_kb": len(progress.model_dump_json()) / 1000,
    }


def by_rollouts(number: int) -> dict[str, float]:
    """One tick over so many rollouts, each of a model of its own with news from one gateway."""
    draw, now = np.random.default_rng(2), utc_now()
    with tempfile.TemporaryDirectory() as home:
        store = world.make_store(Path(home))
        world.set_replica(store, "v2")
        world.set_replica(store, "v1")
        rollouts = Rollouts(store)
        rollouts.apply(rollouts.plan_begin(world.MODEL, "v2", SPEC))
        clock = [now]
        controller = Controller(store, "benchmark", clock=lambda: clock[0])
        controller.tick()
        ids = clone(store, number)
        clock[0] += timedelta(seconds=5)
        rows = {"v1": tally(draw, 1000), "v2": tally(draw, 1000)}
        with store.database.transaction() as session:
            for model in ids:
                tallies.put(
                    session,
                    gateway="g",
                    model=model,
                    revision=2,
                    applied_at=clock[0],
                    seen_at=clock[0],
                    tally={"versions": rows},
                )
        began = time.perf_counter()
        looks = controller.tick()
        took = time.perf_counter() - began
        store.database.dispose()
    return {"rollout_ms": took * 1000 / number, "looks": float(looks)}


def clone(store: Any, number: int) -> list[str]:
    """The one rollout under so many models."""
    with store.database.transaction() as session:
        one = session.query(RolloutRow).one()
        columns = {c.name: getattr(one, c.name) for c in RolloutRow.__table__.columns if c.name != "id"}
        models = [f"model{index}" for index in range(number)]
        session.add_all(RolloutRow(**{**columns, "model": model}) for model in models)
        one.phase = Phase.ROLLED_BACK.value
    return models


def main() -> None:
    """Measure and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="fewer rollouts and observations")
    arguments = parser.parse_args()
    observations = (10**4, 10**6) if arguments.quick else (10**4, 10**5, 10**6, 10**7, 10**8)
    rollouts = (1, 10) if arguments.quick else (1, 100, 1000)
    figures: dict[str, float] = {}
    for number in observations:
        found = by_observations(number)
        figures |= {f"observations_1e{len(str(number)) - 1}.{name}": value for name, value in found.items()}
    for number in rollouts:
        figures |= {f"rollouts_{number}.{name}": value for name, value in by_rollouts(number).items()}
    most = max(value for name, value in figures.items() if name.endswith("gate_ms"))
    sizes = [value for name, value in figures.items() if name.endswith("progress_kb")]
    asks = [
        {
            "what": "a look, ms a gate",
            "limit": f"<= {GATE_ASK_MS:g}",
            "value": most,
            "met": most <= GATE_ASK_MS,
        },
        {
            "what": "what is kept after most observations, in that after the fewest",
            "limit": "<= 2",
            "value": sizes[-1] / sizes[0],
            "met": sizes[-1] <= 2 * sizes[0],
        },
    ]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if arguments.json:
        print(json.dumps({"name": "controller", "machine": machine, "figures": figures, "asks": asks}))
        return
    print(machine)
    for name, figure in figures.items():
        print(f"  {name:<36}{figure:>10.2f}")
    for ask in asks:
        print(f"  {'met   ' if ask['met'] else 'MISSED'} {ask['what']}: {ask['value']:.2f} ({ask['limit']})")


if __name__ == "__main__":
    main()

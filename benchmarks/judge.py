"""Linnet's judge against others' rules, on simulated rollouts that are looked at all the time.

The same hours, with drifting load, bursts that hit both versions and heavy-tailed latencies, are judged by
each rule; a rollout goes through 1, 5, 25 and 50% of the traffic and is then promoted. Without a fault each
rollback is a false alarm. With one, its harm is what callers got of it until it was gone, or promoted;
a promoted one is counted for an hour more, with all of the traffic.

    python benchmarks/judge.py [--json] [--quick] [--rollouts N]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import judge_world as world
import numpy as np
from judge_ours import Linnet
from judge_rules import ALPHA, DOCUMENTED, SAME_LIMITS, Fixed, Flagger, Kayenta, Move, Rule
from judge_world import FAULTS, STEPS, Fault, Rollout

ROLLOUTS, QUICK = 2000, 100
FAULTY_SHARE = 0.2
RULES: dict[str, Callable[[], Rule]] = {
    "linnet": Linnet,
    "flagger": lambda: Flagger(DOCUMENTED),
    "flagger, linnet's limits": lambda: Flagger(SAME_LIMITS),
    "kayenta": Kayenta,
    "fixed size": Fixed,
}
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Outcome:
    """How a rollout ended, after how many answers of the candidate and how many minutes."""

    end: str
    answers: int
    minutes: float


def judged(rule: str, fault: Fault, seed: int) -> Outcome:
    """One rollout, judged by one rule; it is undecided when six hours are over."""
    rollout, judge = Rollout(seed, fault, list(RULES).index(rule)), RULES[rule]()
    answers = step = 0
    end = "undecided"
    for tick in rollout:
        answers += tick.candidate.n
        move = judge.look(tick)
        step += move is Move.ADVANCE
        if move is Move.ROLL_BACK or step == len(STEPS):
            end = "rolled back" if move is Move.ROLL_BACK else "promoted"
            break
        rollout.weight = STEPS[step]
    return Outcome(end, answers, rollout.ticks * world.TICK_S / 60)


def figures_of(fault: Fault, outcomes: list[Outcome]) -> Figures:
    """Shares, samples to the verdict, and harm (means over rollouts)."""
    ends = [one.end for one in outcomes]
    share = {end: ends.count(end) / len(ends) for end in ("rolled back", "promoted")}
    wanted = "rolled back" if fault.harm else "promoted"
    right = [one for one in outcomes if one.end == wanted]
    figures: Figures = {name.replace(" ", "_"): round(of_all, 4) for name, of_all in share.items()}
    for name, quantile in (("p50", 0.5), ("p90", 0.9)):
        figures[f"answers_{name}"] = _quantile([one.answers for one in right], quantile)
        figures[f"minutes_{name}"] = _quantile([one.minutes for one in right], quantile)
    if fault.harm:
        answers = np.mean([one.answers for one in outcomes])
        hour = share["promoted"] * world.PER_SECOND * 3600
        figures["harmed_before"] = round(float(fault.harm * answers), 1)
        figures["harmed"] = round(float(fault.harm * (answers + hour)), 1)
    return figures


def _quantile(values: list[float], quantile: float) -> float | None:
    return round(float(np.quantile(values, quantile)), 1) if values else None


def measure(rollouts: int) -> dict[str, dict[str, Figures]]:
    """By fault and rule."""
    found: dict[str, dict[str, Figures]] = {}
    for fault in FAULTS.values():
        number = rollouts if fault.name == "none" else round(rollouts * FAULTY_SHARE)
        found[fault.name] = {}
        for rule in RULES:
            outcomes = [judged(rule, fault, seed) for seed in range(number)]
            found[fault.name][rule] = figures_of(fault, outcomes)
            print(f"{fault.name}, {rule}: {found[fault.name][rule]}", file=sys.stderr)
    return found


def asks_of(found: dict[str, dict[str, Figures]]) -> list[dict[str, Any]]:
    """False alarms of at most alpha, and less harm than with any of the others, fault by fault."""
    asks: list[dict[str, Any]] = []
    for good in (fault.name for fault in FAULTS.values() if not fault.harm):
        alarms = found[good]["linnet"]["rolled_back"] or 0.0
        what = f"false rollbacks, {good}"
        asks.append({"what": what, "limit": f"<= {ALPHA}", "value": alarms, "met": alarms <= ALPHA})
    for fault in (fault for fault in FAULTS.values() if fault.harm):
        harmed = {rule: figures["harmed"] or 0.0 for rule, figures in found[fault.name].items()}
        ours = harmed.pop("linnet")
        best = min(harmed, key=lambda rule: harmed[rule])
        ratio = round(ours / harmed[best], 3)
        what = f"answers harmed, {fault.name}, of those with {best}"
        asks.append({"what": what, "limit": "< 1", "value": ratio, "met": ratio < 1})
    return asks


def flat(found: dict[str, dict[str, Figures]]) -> Figures:
    """One level, as all benchmarks have it."""
    return {
        f"{fault}.{rule}.{name}": value
        for fault, rules in found.items()
        for rule, figures in rules.items()
        for name, value in figures.items()
    }


def show(found: dict[str, dict[str, Figures]]) -> None:
    """A table a fault."""
    ends, harm = ("rolled_back", "promoted"), ("harmed_before", "harmed")
    names = (*ends, "answers_p50", "answers_p90", "minutes_p50", *harm)
    for fault, rules in found.items():
        print(f"\n{fault:<26}" + "".join(f"{name:>15}" for name in names))
        for rule, figures in rules.items():
            print(f"  {rule:<24}" + "".join(f"{_cell(figures.get(name)):>15}" for name in names))


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}" if value < 10 else f"{value:,.0f}"


def main(arguments: Iterable[str] | None = None) -> None:
    """Simulate and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} rollouts without a fault")
    parser.add_argument("--rollouts", type=int, default=ROLLOUTS, help="without a fault; a fifth with each")
    given = parser.parse_args(None if arguments is None else list(arguments))
    found = measure(QUICK if given.quick else given.rollouts)
    asks = asks_of(found)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if given.json:
        print(json.dumps({"name": "judge", "machine": machine, "figures": flat(found), "asks": asks}))
        return
    print(machine)
    show(found)
    print()
    for ask in asks:
        verdict = "met   " if ask["met"] else "MISSED"
        print(f"  {verdict} {ask['what']}: {ask['value']} (ask {ask['limit']})")


if __name__ == "__main__":
    main()

"""The demo from its first step to its last, and its orderly end wherever it is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from cluster.demo import closing, interruptions, judging, page, preparing, report, rolling, serving, training
from cluster.demo.client import MODEL
from cluster.demo.figures import Phase
from cluster.demo.state import Demo
from cluster.errors import InterruptedRunError


@dataclass(frozen=True)
class Step:
    """One step: a short name for the table, what it does, and the doing."""

    name: str
    title: str
    act: Callable[[Demo], None]


STEPS = (
    Step("doctor", "Is this machine fit?", preparing.examine_machine),
    Step("cluster", "A Ray cluster on this machine", preparing.start_cluster),
    Step("model and data", "A real model, and snippets that people rated", preparing.get_model_and_data),
    Step("training", "Fine-tune on 2 workers, and kill one with SIGKILL", training.train_with_a_kill),
    Step("deploy base", "Deploy the base alone, while the run publishes", serving.deploy_base),
    Step("publish", "What the run published and what the kill cost", training.collect_run),
    Step("client", "A client that never stops calling", serving.start_client),
    Step("deploy tuned", "Deploy the tuned version beside it", serving.deploy_tuned),
    Step("start", f"Give it {rolling.WEIGHT}% of the traffic", rolling.start_rollout),
    Step("split", "Who got it?", rolling.observe_split),
    Step("accuracy", "Held-out accuracy of both, through the gateway", rolling.measure_accuracy),
    Step("promote", "Promote it", rolling.promote),
    Step("rollback", "Take it back", rolling.roll_back),
    Step("judged", "Let it be judged, and promoted by what its answers show", judging.promote_by_policy),
    Step("stop client", "Stop calling", closing.stop_client),
    Step("down", "Take everything down", closing.take_down),
)


def run(demo: Demo, steps: tuple[Step, ...] = STEPS) -> None:
    """Carry the steps out in turn; whatever stops them, nothing that they started goes on.

    Raises the error that stopped a step, InterruptedRunError for Ctrl-C.
    """
    name = steps[0].name
    with interruptions.as_keyboard_interrupt():
        try:
            for number, step in enumerate(steps, 1):
                name = step.name
                _carry_out(demo, step, number, len(steps))
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"The demo was stopped in the step `{name}`.", hint="`make demo` starts anew."
            ) from None
        finally:
            with interruptions.ignored():
                _end(demo, finished=len(demo.phases) == len(steps))


def conclude(demo: Demo) -> int:
    """Write the report and show the table; returns 0. Raises the error of what fell short."""
    told = report.make_report(demo)
    report.write_json(demo, told)
    page.write_html(demo, told)
    demo.teller.show("")
    demo.teller.show(report.table(told))
    demo.teller.say(f"report: {demo.directory / 'report.json'}")
    demo.teller.say(f"        {demo.directory / 'report.html'}")
    fell_short = report.shortfall(told)
    if fell_short is not None:
        raise fell_short
    return 0


def what_is_left(demo: Demo) -> str:
    """A sentence on what an unfinished demo leaves in the store and in the home; empty for nothing."""
    if not demo.base:
        return ""
    kept = [f"versions of {MODEL} in the store ({demo.settings.root})"]
    if demo.run:
        kept.append(f"the run {demo.run}")
    return f"Kept, as far as finished: {', '.join(kept)}."


def _end(demo: Demo, *, finished: bool) -> None:
    trouble = demo.tidy()
    if trouble:
        demo.teller.say(f"The cluster could not be stopped: {trouble} `linnet down` tries again.")
    if not finished and (left := what_is_left(demo)):
        demo.teller.say(left)


def _carry_out(demo: Demo, step: Step, number: int, of: int) -> None:
    demo.teller.step(number, of, step.title)
    began = time.monotonic()
    step.act(demo)
    demo.phases.append(Phase(name=step.name, seconds=round(time.monotonic() - began, 2)))

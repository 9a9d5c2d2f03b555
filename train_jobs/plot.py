"""The picture of a run: its loss with every failure marked, and below it what the wall clock was spent on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.recovery.classes import FailureClass
from cluster.recovery.receipts import Receipt
from train_jobs.run_files import StepRecord
from train_jobs.timeline import Cause, Timeline, last_of_each_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOSS = "#1f5fa8"
_COMMAND = "#7f8c8d"
_COLOURS = {
    FailureClass.WORKER_CRASH: "#c0392b",
    FailureClass.OUT_OF_MEMORY: "#8e44ad",
    FailureClass.NODE_LOST: "#7b241c",
    FailureClass.NODE_DRAINING: "#d4a017",
    FailureClass.NETWORK_STALL: "#16a085",
    FailureClass.HUNG_RANK: "#e67e22",
    FailureClass.SLOW_RANK: "#b7950b",
    FailureClass.BAD_LOSS: "#d81b60",
    FailureClass.STORAGE_REFUSED: "#5d4037",
    FailureClass.DRIVER_LOST: "#34495e",
    FailureClass.HEAD_LOST: "#17202a",
    FailureClass.PROGRAM_ERROR: "#2e7d32",
}
_SPENT = {"useful": "#9dc3e6", "redone": "#f5b041", "detecting": "#c0392b", "recovering": "#8e44ad"}
_MINUTES_FROM_S, _HOURS_FROM_S = 600.0, 5 * 3600.0
Span = tuple[float, float]


def loss_png(
    run: str, steps: Sequence[StepRecord], timeline: Timeline, receipts: Sequence[Receipt] = ()
) -> bytes:
    """A PNG: loss over step with failures marked by class, and a bar of the wall clock.

    `steps` must hold one at least.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    curve, bar = figure.subplots(2, 1, height_ratios=[5, 1])
    kept = last_of_each_step(steps)
    curve.plot([s.step for s in kept], [s.loss for s in kept], marker=".", linewidth=1.5, color=_LOSS)
    _mark(curve, timeline, receipts)
    curve.set(xlabel="step", ylabel="loss", title=run)
    curve.grid(alpha=0.3)
    _draw_bar(bar, spent(steps, receipts))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def spent(steps: Sequence[StepRecord], receipts: Sequence[Receipt]) -> dict[str, list[Span]]:
    """What the wall clock went into, as (start, length) in seconds since the first step began.

    A step that had been done before counts as redone; receipts tell how long detecting and recovering took.
    """
    began = steps[0].at - steps[0].step_s
    spans: dict[str, list[Span]] = {name: [] for name in _SPENT}
    furthest = 0
    for record in steps:
        kind = "redone" if record.step <= furthest else "useful"
        spans[kind].append((record.at - record.step_s - began, record.step_s))
        furthest = max(furthest, record.step)
    for receipt in receipts:
        start = receipt.at - began
        spans["detecting"].append((start, receipt.detect_s))
        spans["recovering"].append((start + receipt.detect_s, receipt.isolate_s + receipt.recover_s))
    return {name: _merged(found) for name, found in spans.items()}


def _merged(spans: Sequence[Span]) -> list[Span]:
    """In order of time, those that overlap made one: a failure during a recovery takes no time of its own."""
    merged: list[Span] = []
    for start, length in sorted(span for span in spans if span[1] > 0):
        end = merged[-1][0] + merged[-1][1] if merged else start
        if merged and start < end:
            merged[-1] = (merged[-1][0], max(end, start + length) - merged[-1][0])
        else:
            merged.append((start, length))
    return merged


def _mark(axes: Axes, timeline: Timeline, receipts: Sequence[Receipt]) -> None:
    """A dashed line for each failure and each command that resumed the run; each kind once in the legend."""
    marks = [(r.step, r.failure_class.value.replace("_", " "), _COLOURS[r.failure_class]) for r in receipts]
    marks += [
        (attempt.resumed_from_step, "resumed by command", _COMMAND)
        for attempt in timeline.attempts
        if attempt.cause is Cause.COMMAND
    ]
    counts: dict[str, int] = {}
    for _, label, _ in marks:
        counts[label] = counts.get(label, 0) + 1
    shown: set[str] = set()
    for step, label, colour in marks:
        times = f" ({counts[label]})" if counts[label] > 1 else ""
        axes.axvline(
            step + 0.5,
            linestyle="--",
            linewidth=1,
            color=colour,
            label="" if label in shown else f"{label}{times}",
        )
        shown.add(label)
    if marks:
        axes.legend(frameon=False, fontsize=9)


def _draw_bar(axes: Axes, spans: dict[str, list[Span]]) -> None:
    end = max(start + length for found in spans.values() for start, length in found)
    scale, unit = _unit(end)
    for name, found in spans.items():
        if found:
            total = sum(length for _, length in found)
            scaled = [(start / scale, length / scale) for start, length in found]
            axes.broken_barh(scaled, (0, 1), color=_SPENT[name], linewidth=0, label=f"{name} {_human(total)}")
    axes.set(xlabel=f"{unit} since the first step", yticks=[], ylim=(0, 1), xlim=(0, end / scale))
    axes.set_title(f"wall clock: {_human(end)}", fontsize=10, loc="left")
    axes.legend(
        frameon=False, fontsize=9, ncols=len(_SPENT), loc="lower right", bbox_to_anchor=(1, 0.98),
        borderaxespad=0, handlelength=1,
    )  # fmt: skip


def _unit(seconds: float) -> tuple[float, str]:
    if seconds < _MINUTES_FROM_S:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < _HOURS_FROM_S else (3600.0, "hours")


def _human(seconds: float) -> str:
    scale, unit = _unit(seconds)
    return f"{seconds / scale:.1f} {'s' if unit == 'seconds' else 'min' if unit == 'minutes' else 'h'}"

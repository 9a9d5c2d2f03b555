"""The three pictures of the report, as SVG that takes its ink from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cluster.demo import figures
from cluster.demo.client import Answer
from cluster.demo.figures import LossPoint, Mark, TrainFigures

BASE, TUNED, ALARM = "#8a94a6", "#2f80d0", "#d2453d"
# A colour that nothing else has: in the SVG it becomes the colour of the page's text.
_INK = "#010203"
_BINS = 240


def loss_figure(points: Sequence[LossPoint], train: TrainFigures) -> Figure:
    """Loss over step; the kill as a line, and hollow points for what had to be trained again."""
    figure, axes = _new()
    kept = {point.step: point for point in points}
    lost = [point for point in points if kept[point.step] is not point]
    steps = sorted(kept)
    losses = [kept[step].loss for step in steps]
    axes.plot(steps, losses, color=TUNED, linewidth=1.6, marker=".", markersize=5)
    if lost:
        axes.plot(
            [p.step for p in lost], [p.loss for p in lost], linestyle="", marker="o", markersize=8,
            markerfacecolor="none", markeredgecolor=ALARM, label="trained again after the kill",
        )  # fmt: skip
    label = f"worker killed, {train.recovered_s:.1f} s to new work"
    axes.axvline(train.killed_after_step + 0.5, color=ALARM, linestyle="--", linewidth=1.2, label=label)
    axes.set(xlabel="step", ylabel="loss on answers")
    axes.set_ylim(bottom=0)
    _legend(axes)
    return figure


def split_figure(answers: Sequence[Answer], marks: Sequence[Mark], base: str, tuned: str) -> Figure:
    """The share of each version among the requests of each moment, with the rollout's commands."""
    figure, axes = _new(height=3.6)
    asked = [answer for answer in answers if answer.version and not answer.question.pin]
    begin, end = min(a.answered for a in asked), max(a.answered for a in asked)
    width = max(1.0, (end - begin) / _BINS)
    bins = figures.shares(asked, width)
    times = [*(max(0.0, at - begin) for at, _ in bins), end - begin]
    share = [100 * found.get(tuned, 0.0) for _, found in (*bins, bins[-1])]
    axes.fill_between(times, share, 100, step="post", color=BASE, alpha=0.55, linewidth=0, label=base)
    axes.fill_between(times, 0, share, step="post", color=TUNED, alpha=0.9, linewidth=0, label=tuned)
    for mark in marks:
        axes.axvline(mark.at - begin, color=_INK, linewidth=1)
    for mark in joined(marks, nearer_s=(end - begin) / 12):
        axes.annotate(
            mark.name, (mark.at - begin, 101), annotation_clip=False, rotation=40, fontsize=8, color=_INK,
            xytext=(0, 2), textcoords="offset points",
        )  # fmt: skip
    axes.set(xlabel="seconds since the first call", ylabel="share of requests, %", ylim=(0, 100))
    axes.set_xlim(0, max(times[-1], 1.0))
    _legend(axes)
    return figure


def joined(marks: Sequence[Mark], nearer_s: float) -> list[Mark]:
    """Marks in order of time, those too near to their forerunner told together with it."""
    found: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: mark.at):
        if found and mark.at - found[-1].at < nearer_s:
            found[-1] = Mark(name=f"{found[-1].name}, {mark.name}", at=found[-1].at)
        else:
            found.append(mark)
    return found


def accuracy_figure(values: dict[str, float], asked_for: float) -> Figure:
    """A bar for each version and a line at what is asked for."""
    figure, axes = _new(height=1.9)
    names = list(values)
    bars = axes.barh(names, [100 * values[name] for name in names], color=[BASE, TUNED], height=0.55)
    axes.bar_label(bars, fmt="%.1f%%", padding=4, color=_INK)
    label = f"asked for: {asked_for:.0%}"
    axes.axvline(100 * asked_for, color=ALARM, linestyle="--", linewidth=1.2, label=label)
    axes.set(xlabel="held-out snippets answered rightly, %", xlim=(0, 108))
    axes.invert_yaxis()
    _legend(axes)
    return figure


def svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element to stand in HTML; `name` keeps its ids apart from others'."""
    buffer = io.StringIO()
    unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "svg.id": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=unsaid)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Groups of every figure bear the same names, which nothing refers to.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    return re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)


def _new(height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_INK)
    axes.tick_params(colors=_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    return figure, axes


def _legend(axes: Axes) -> None:
    style: dict[str, Any] = {"frameon": False, "labelcolor": _INK, "fontsize": 9, "borderaxespad": 0.2}
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, **style)

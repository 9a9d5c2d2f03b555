"""The loss curve of a run, with its restarts marked."""

from __future__ import annotations

import io
from collections.abc import Sequence

from train_jobs.run_files import StepRecord
from train_jobs.timeline import Cause, Timeline, last_of_each_step


def loss_png(run: str, steps: Sequence[StepRecord], timeline: Timeline) -> bytes:
    """A PNG of loss over step; a dashed line where each later attempt took up the work."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    kept = last_of_each_step(steps)
    axes.plot([s.step for s in kept], [s.loss for s in kept], marker=".", linewidth=1.5, color="#1f5fa8")
    marked: set[str] = set()
    for attempt in timeline.attempts:
        if attempt.cause is Cause.START:
            continue
        label = "worker lost" if attempt.cause is Cause.RECOVERY else "resumed by command"
        colour = "#c0392b" if attempt.cause is Cause.RECOVERY else "#7f8c8d"
        shown = "" if label in marked else label
        marked.add(label)
        axes.axvline(attempt.resumed_from_step + 0.5, linestyle="--", linewidth=1, color=colour, label=shown)
    if marked:
        axes.legend(frameon=False)
    axes.set(xlabel="step", ylabel="loss on answers", title=run)
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()

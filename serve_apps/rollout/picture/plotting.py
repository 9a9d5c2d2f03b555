"""The picture of a rollout: weights over time with decisions marked, and a panel for each gate."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from serve_apps.rollout import quantities
from serve_apps.rollout.judge.finding import Finding, Verdict
from serve_apps.rollout.picture.chart import Chart, GateTrack, Mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CANDIDATE, _LIMIT, _INK = "#1f5fa8", "#c0392b", "#39424e"
# Apart for people who do not tell red from green, too.
_VERDICTS = {Verdict.PASS: "#4c9f70", Verdict.INCONCLUSIVE: "#c9ced6", Verdict.FAIL: "#d1495b"}
_VERBS = {
    "rollback": "taken back",
    "promote": "promoted",
    "approve": "approved",
    "pause": "paused",
    "resume": "resumed",
}
_MINUTES_FROM_S, _HOURS_FROM_S = 600.0, 5 * 3600.0
_COLUMNS = 2


def png(chart: Chart) -> bytes:
    """The picture, with the headless backend."""
    figure = draw(chart)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def draw(chart: Chart) -> Figure:
    """The figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = math.ceil(len(chart.tracks) / _COLUMNS)
    figure = Figure(figsize=(11, 3.4 + 2.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows + 1, _COLUMNS, height_ratios=[1.45, *[1] * rows])
    _draw_weights(figure.add_subplot(grid[0, :]), chart)
    for index, track in enumerate(chart.tracks):
        axes = figure.add_subplot(grid[1 + index // _COLUMNS, index % _COLUMNS])
        _draw_gate(axes, chart, track)
    figure.suptitle(_title(chart), fontsize=13, x=0.01, ha="left", color=_INK, fontweight="bold")
    _legend(figure)
    return figure


def _title(chart: Chart) -> str:
    ended = f"{chart.phase.value.replace('_', ' ')} ({chart.reason.replace('_', ' ')})"
    return f"rollout {chart.rollout}: {chart.model}:{chart.candidate} beside {chart.stable}, {ended}"


def _draw_weights(axes: Axes, chart: Chart) -> None:
    scale, unit = _unit(chart.ends)
    last = chart.marks[-1].weight if chart.marks else 0.0
    times = [*(mark.at / scale for mark in chart.marks), chart.ends / scale]
    weights = [*(mark.weight for mark in chart.marks), last]
    axes.fill_between(times, weights, step="post", color=_CANDIDATE, alpha=0.18, linewidth=0)
    axes.step(times, weights, where="post", color=_CANDIDATE, linewidth=1.8)
    top = max([5.0, *weights])
    axes.set_ylim(0, 1.25 * top)
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 100])
    axes.set_xlabel(f"{unit} since {chart.began:%Y-%m-%d %H:%M:%S} UTC", fontsize=9, color=_INK)
    axes.set_ylabel(f"weight of {chart.candidate}, %", fontsize=9, color=_INK)
    _mark(axes, chart.marks, end=chart.ends / scale, scale=scale, top=top)
    _frame(axes, chart.ends / scale)
    if chart.why:
        axes.set_title(_wrapped(chart.why, 130), fontsize=9, loc="left", color=_INK)


def _mark(axes: Axes, marks: Sequence[Mark], *, end: float, scale: float, top: float) -> None:
    """A dot for each decision after the first; what moves no weight is named below its dot."""
    before, last, levels = 0.0, {True: (-math.inf, 0.0), False: (-math.inf, 0.0)}, {True: 0, False: 0}
    for mark in marks[1:]:
        x, is_late = mark.at / scale, mark.at / scale > 0.93 * end
        stays = mark.weight == before and mark.command != "promote"
        is_near = x - last[stays][0] < 0.07 * end and abs(mark.weight - last[stays][1]) < 0.1 * top
        level = levels[stays] = levels[stays] + 1 if is_near else 0
        before, last[stays] = mark.weight, (x, mark.weight)
        colour = _VERDICTS[Verdict.FAIL] if mark.command == "rollback" else _CANDIDATE
        axes.plot([x], [mark.weight], marker="o", markersize=5, color=colour, clip_on=False, zorder=3)
        axes.annotate(
            "waits" if mark.command == "advance" and stays else _label(mark),
            (x, mark.weight),
            xytext=(-5 if is_late else 5, -12 - 10 * level if stays else 5 + 10 * level),
            textcoords="offset points",
            ha="right" if is_late else "left",
            fontsize=8.5,
            color=colour if mark.command == "rollback" else _INK,
        )


def _label(mark: Mark) -> str:
    return f"{mark.weight:g}%" if mark.command == "advance" else _VERBS.get(mark.command, mark.command)


def _draw_gate(axes: Axes, chart: Chart, track: GateTrack) -> None:
    scale, _ = _unit(chart.ends)
    times = [at / scale for at in chart.looked_at]
    limit = quantities.limit(track.gate)
    title = f"{track.gate.name}: {limit}" if limit else _wrapped(track.gate.name, 60)
    axes.set_title(title, fontsize=9.5, loc="left", color=_INK)
    for mark in chart.marks:
        if mark.command == "advance":
            axes.axvline(mark.at / scale, color=_INK, linewidth=0.7, alpha=0.35)
    shown = [(at, one) for at, one in zip(times, track.findings, strict=True) if one.effect is not None]
    if shown and track.gate.metric is not None:
        _draw_effect(axes, track, shown)
    else:
        axes.set_yticks([])
        axes.set_ylim(0, 1)
        axes.text(
            0.5, 0.55, _only_verdicts(track), transform=axes.transAxes, ha="center", fontsize=8, color=_INK
        )
    _strip(axes, times, track.findings, chart.ends / scale)
    _frame(axes, chart.ends / scale)


def _only_verdicts(track: GateTrack) -> str:
    return _wrapped(track.findings[-1].reason, 60) if track.findings else "nobody looked"


def _draw_effect(axes: Axes, track: GateTrack, shown: Sequence[tuple[float, Finding]]) -> None:
    times = [at for at, _ in shown]
    effects = [one.effect or 0.0 for _, one in shown]
    limit = shown[-1][1].limit
    least, most = _bounds(effects, limit, shown)
    lows = [least if one.low is None else one.low for _, one in shown]
    highs = [2 * most if one.high is None else one.high for _, one in shown]
    if any(one.low is not None for _, one in shown):
        axes.fill_between(times, lows, highs, color=_CANDIDATE, alpha=0.16, linewidth=0)
    axes.plot(times, effects, color=_CANDIDATE, linewidth=1.5)
    axes.axhline(limit, color=_LIMIT, linewidth=1.2, linestyle="--")
    # Room below for the strip of verdicts.
    axes.set_ylim(least - 0.16 * (most - least), most)
    axes.yaxis.set_major_formatter(
        lambda value, _: quantities.in_unit(track.gate, value) if value >= least else ""
    )
    axes.locator_params(axis="y", nbins=5)


def _bounds(
    effects: Sequence[float], limit: float, shown: Sequence[tuple[float, Finding]]
) -> tuple[float, float]:
    """So that the limit, the effects and most of the last intervals are seen; early ones may run out."""
    later = shown[len(shown) // 2 :]
    ends = [end for _, one in later for end in (one.low, one.high) if end is not None]
    reach = max(abs(limit), *(abs(effect) for effect in effects[len(effects) // 4 :]))
    most = max([reach, *(end for end in ends if end <= 3 * reach)])
    least = min([0.0, *(effect for effect in effects), *(end for end in ends if end >= -3 * reach)])
    return least, (most * 1.15 or 1.0)


def _strip(axes: Axes, times: Sequence[float], findings: Sequence[Finding], end: float) -> None:
    """Along the bottom, the verdict of each look until the next."""
    if not times:
        return
    for verdict, colour in _VERDICTS.items():
        spans = [
            (begin, until - begin)
            for begin, until, one in zip(times, [*times[1:], end], findings, strict=True)
            if one.verdict is verdict and until > begin
        ]
        if spans:
            axes.broken_barh(
                spans, (0.0, 0.07), color=colour, linewidth=0, transform=axes.get_xaxis_transform(), zorder=2
            )
    last = findings[-1].verdict
    if last is Verdict.FAIL:
        axes.plot(
            [times[-1]], [0.035], marker="o", markersize=8, color=_VERDICTS[last], clip_on=False, zorder=4,
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip


def _frame(axes: Axes, end: float) -> None:
    axes.set_xlim(0, end or 1.0)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.tick_params(labelsize=8, colors=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=_CANDIDATE, linewidth=1.5, label="effect"),
        Patch(color=_CANDIDATE, alpha=0.16, label="its interval"),
        Line2D([], [], color=_LIMIT, linestyle="--", linewidth=1.2, label="limit"),
        *(Patch(color=colour, label=verdict.value) for verdict, colour in _VERDICTS.items()),
    ]
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=len(handles),
        frameon=False,
        fontsize=8.5,
        handlelength=1.4,
    )


def _unit(seconds: float) -> tuple[float, str]:
    if seconds < _MINUTES_FROM_S:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < _HOURS_FROM_S else (3600.0, "hours")


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width)[:3])

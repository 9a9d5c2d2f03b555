"""An inspection as text for a terminal, and as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from train_jobs.data.inspecting import Inspection, Segment, View, histogram

OPEN, CLOSE = "⟦", "⟧"
_BAR = 40
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def as_text(report: Inspection, *, colour: bool) -> str:
    """A report to read; trained text stands between ⟦ and ⟧."""
    return "\n".join(_lines(report, colour=colour)) + "\n"


def _lines(report: Inspection, *, colour: bool) -> Iterator[str]:
    view = report.view
    dropped = sum(report.dropped.values())
    yield f"path         {report.path}"
    yield f"format       {report.format}"
    yield f"rows         {len(view.lengths)} usable, {dropped} dropped"
    yield f"sha256       {report.fingerprint}"
    if view.trained_share is not None:
        yield f"loss         on {view.trained_share:.1%} of the tokens"
    if report.dropped:
        yield ""
        yield "Dropped"
        width = len(str(max(report.dropped.values())))
        yield from (f"  {count:>{width}}  {reason}" for reason, count in report.dropped.items())
    yield ""
    yield f"Length in {view.unit}: median {_median(view)}, longest {view.lengths[-1]}"
    yield from _bars(view)
    yield ""
    yield f"Sample {view.sample_id}; loss on the text between {OPEN} and {CLOSE}"
    yield ""
    yield "".join(_marked(segment, colour=colour) for segment in view.sample).rstrip()


def _median(view: View) -> int:
    return view.lengths[len(view.lengths) // 2]


def _bars(view: View) -> Iterator[str]:
    bins = histogram(view.lengths)
    most = max(bin_.count for bin_ in bins)
    wide = len(str(bins[-1].high))
    for bin_ in bins:
        bar = "█" * -(-bin_.count * _BAR // most)
        yield f"  {bin_.low:>{wide}}-{bin_.high:<{wide}}  {bin_.count:>{len(str(most))}}  {bar}".rstrip()


def _marked(segment: Segment, *, colour: bool) -> str:
    # Data must not be able to steer the terminal.
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", segment.text)
    if segment.trained:
        text = f"{OPEN}{text}{CLOSE}"
    style = _BOLD if segment.trained else _DIM
    return f"{style}{text}{_PLAIN}" if colour else text


def as_dict(report: Inspection) -> dict[str, Any]:
    """The same report for `--json`; lengths in `unit`."""
    view = report.view
    return {
        "path": str(report.path),
        "format": report.format,
        "fingerprint": report.fingerprint,
        "usable": len(view.lengths),
        "dropped": report.dropped,
        "unit": view.unit,
        "trained_share": view.trained_share,
        "length": {
            "median": _median(view),
            "longest": view.lengths[-1],
            "histogram": [
                {"low": bin_.low, "high": bin_.high, "count": bin_.count} for bin_ in histogram(view.lengths)
            ],
        },
        "sample": {
            "id": view.sample_id,
            "segments": [{"text": segment.text, "trained": segment.trained} for segment in view.sample],
        },
    }

"""An inspection as text for a terminal, and as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from train_jobs.data.inspecting import Inspection, Segment, View, histogram

OPEN, CLOSE = "⟦", "⟧"
_BAR = 40
_NAMED = 3
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def as_text(report: Inspection, *, colour: bool) -> str:
    """A report to read; trained text stands between ⟦ and ⟧."""
    return "\n".join(_lines(report, colour=colour)) + "\n"


def _lines(report: Inspection, *, colour: bool) -> Iterator[str]:
    view = report.view
    dropped = sum(map(len, report.dropped.values()))
    yield f"path         {report.path}"
    yield f"format       {report.format}"
    yield f"rows         {len(view.lengths)} usable, {dropped} dropped"
    yield f"sha256       {report.fingerprint}"
    if view.trained_share is not None:
        yield f"loss         on {view.trained_share:.1%} of the tokens"
    if report.dropped:
        yield ""
        yield "Dropped"
        width = len(str(max(map(len, report.dropped.values()))))
        yield from (
            f"  {len(ids):>{width}}  {reason} ({_named(ids)})" for reason, ids in report.dropped.items()
        )
    yield ""
    yield f"Length in {view.unit}: median {_median(view)}, longest {view.lengths[-1]}"
    yield from _bars(view)
    yield ""
    yield f"Sample {view.sample_id}; loss on the text between {OPEN} and {CLOSE}"
    for name, segments in view.sample.items():
        yield ""
        if len(view.sample) > 1:
            yield f"{name}:"
        yield "".join(_marked(segment, colour=colour) for segment in segments).rstrip()


def _named(ids: Sequence[str]) -> str:
    more = ", …" if len(ids) > _NAMED else ""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", ", ".join(ids[:_NAMED]) + more)


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
        "dropped": {reason: len(ids) for reason, ids in report.dropped.items()},
        "dropped_ids": report.dropped,
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
            **{name: [asdict(segment) for segment in segments] for name, segments in view.sample.items()},
        },
    }

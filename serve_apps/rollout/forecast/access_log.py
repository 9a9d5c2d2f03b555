"""How much a model is asked, and how its stable version answers, from the access log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serve_apps.access_log.query import AccessLogs, Wanted
from serve_apps.gateway.judged import COUNTED
from serve_apps.gateway.outcome import error_kind, is_callers
from serve_apps.gateway.routes import GENERATING
from serve_apps.rollout.forecast.today import SHORTEST_S, WINDOW, Share, Today
from serve_apps.rollout.judge.sketch import EMPTY, Sketch
from serve_apps.rollout.metrics import METRICS
from serve_apps.sketch import GAMMA, LARGEST, SMALLEST

COLUMNS = (
    *("at", "version", "route", "status", "error_code", "ttft_s", "itl_s", "e2e_s"),
    *("completion_tokens", "finish_reason", "retries", "continued"),
)
_SECONDS = {"ttft": "ttft_s", "itl": "itl_s", "e2el": "e2e_s"}
_SHARES = (
    *("error_rate", "timeout_rate", "broken_stream_rate", "unavailable_rate"),
    *("retry_rate", "cut_rate"),
)


def from_log(logs: AccessLogs, model: str, stable: str, now: datetime) -> Today:
    """The last 24 h of the access log, or less where it begins later; `now` is in UTC, with its zone."""
    wanted = Wanted(model=model, since=now - WINDOW)
    reader = _LogReader(stable)
    for tables in logs.by_day(wanted, COLUMNS):
        for rows in tables:
            reader.add(rows)
    return reader.today(now)


class _LogReader:
    def __init__(self, stable: str) -> None:
        self._stable = stable
        self._requests = 0
        self._first: datetime | None = None
        self._counts: Counter[str] = Counter()
        self._sketches: dict[str, Sketch] = {}

    def add(self, rows: pa.Table) -> None:
        """Count a table of the log."""
        rows = rows.filter(pc.is_in(rows["route"], pa.array(COUNTED)))
        rows = _without(rows, [one for one in _outcomes(rows) if is_callers(*one)])
        if not rows.num_rows:
            return
        self._requests += rows.num_rows
        first = pc.min(rows["at"]).as_py()
        self._first = first if self._first is None else min(first, self._first)
        self._add_stable(rows.filter(pc.equal(rows["version"], self._stable)))

    def _add_stable(self, rows: pa.Table) -> None:
        self._counts["requests"] += rows.num_rows
        again = pc.or_(pc.greater(rows["retries"], 0), pc.greater(rows["continued"], 0))
        self._counts["retried"] += _true(again)
        outcomes = _outcomes(rows)
        kinds = {one: kind for one in outcomes if (kind := error_kind(*one)) is not None}
        for one, kind in kinds.items():
            self._counts["errors"] += outcomes[one]
            self._counts[kind.value] += outcomes[one]
        good = _without(rows, kinds)
        generated = good.filter(pc.is_in(good["route"], pa.array(GENERATING)))
        self._counts["cut"] += _true(pc.equal(generated["finish_reason"], "length"))
        for metric, values in _quantities(good):
            self._sketches[metric] = self._sketches.get(metric, EMPTY).merge(_sketch(values))

    def today(self, now: datetime) -> Today:
        """All that was counted."""
        if self._first is None:
            return Today()
        seconds = max((now - self._first).total_seconds(), SHORTEST_S)
        n = self._counts["requests"]
        return Today(
            requests=self._requests,
            seconds=seconds,
            answers=n,
            shares={name: Share(self._counts[METRICS[name].event], n) for name in _SHARES if n},
            sketches={metric: sketch for metric, sketch in self._sketches.items() if sketch.total},
            source=f"the access log since {self._first.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        )


def _outcomes(rows: pa.Table) -> dict[tuple[int, str], int]:
    """How many rows have each status and error code."""
    found = rows.group_by(["status", "error_code"]).aggregate([([], "count_all")]).to_pylist()
    return {(one["status"], one["error_code"]): one["count_all"] for one in found}


def _without(rows: pa.Table, outcomes: Iterable[tuple[int, str]]) -> pa.Table:
    for status, code in outcomes:
        same = pc.and_(pc.equal(rows["status"], status), pc.equal(rows["error_code"], code))
        rows = rows.filter(pc.invert(same))
    return rows


def _true(values: pa.ChunkedArray) -> int:
    return pc.sum(values).as_py() or 0


def _quantities(rows: pa.Table) -> Iterable[tuple[str, pa.ChunkedArray]]:
    for metric, column in _SECONDS.items():
        yield metric, rows[column]
    tokens = pc.cast(rows["completion_tokens"], "float64")
    yield "answer_tokens", tokens
    timed = pc.greater(rows["e2e_s"], 0)
    yield "tokens_per_s", pc.divide(tokens.filter(timed), rows["e2e_s"].filter(timed))


def _sketch(values: pa.ChunkedArray) -> Sketch:
    """As `SketchBuilder` counts, many at once."""
    numbers = values.drop_null().to_numpy()
    numbers = numbers[np.isfinite(numbers) & (numbers >= 0)]
    positive = np.clip(numbers[numbers > 0], SMALLEST, LARGEST)
    buckets, counts = np.unique(np.ceil(np.log(positive) / np.log(GAMMA) - 1e-9), return_counts=True)
    found = zip(buckets.astype(int).tolist(), counts.tolist(), strict=True)
    return Sketch(dict(found), int((numbers == 0).sum()))

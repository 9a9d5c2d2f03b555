"""Receipts as text for a terminal of 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from cluster.recovery.receipts import Receipt

_WIDTH = 100
_LABEL = 12
_STACK_LINES = 12
_NAMES = 16
_HEADS = (
    "#", "CLASS", "STEP", "FROM", "RANK", "DET", "ISO", "REC", "VER", "TOTAL", "REDO", "PROOF", "STRATEGY",
)  # fmt: skip
_LEGEND = "seconds to detect, isolate, recover and verify; FROM is the step committed last"
_TEXT_COLUMNS = frozenset({"CLASS", "PROOF", "STRATEGY"})


def render(receipt: Receipt) -> list[str]:
    """One receipt, a labelled line for each thing it says."""
    where = f"after step {receipt.step}, newest commit step {receipt.committed_step}"
    lines = [f"receipt {receipt.number}: {receipt.failure_class} {where}"]
    if receipt.victim:
        victim = receipt.victim
        lines += _labelled("victim", f"rank {victim.rank}, pid {victim.pid} on {victim.node}")
    lines += _labelled("what", receipt.detail)
    lines += _labelled("done", f"{receipt.strategy} ({receipt.reason}). {receipt.decided}".rstrip())
    lines += _labelled("time", _times(receipt))
    if receipt.samples:
        lines += _labelled("samples", _some(receipt.samples))
    if receipt.attempt_after is not None:
        lines += _labelled("work", _work(receipt))
    if receipt.stack:
        lines += _stack(receipt.stack)
    if receipt.advice:
        lines += _labelled("advice", receipt.advice)
    return lines


def render_table(receipts: Sequence[Receipt]) -> list[str]:
    """One line a receipt under headings, and a line of sums.

    FROM is the step committed last, REDO counts steps, PROOF is the certificate; seconds to a tenth.
    """
    if not receipts:
        return ["no failures"]
    rows = [_HEADS, *map(_row, receipts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    lines = [_aligned(row, widths) for row in rows]
    total = sum(receipt.total_s for receipt in receipts)
    redone = sum(receipt.steps_redone for receipt in receipts)
    noun = "failure" if len(receipts) == 1 else "failures"
    return [*lines, f"{len(receipts)} {noun}, {total:.1f} s, {redone} steps redone", _LEGEND]


def _times(receipt: Receipt) -> str:
    parts = [
        f"{name} {seconds:.1f}"
        for name, seconds in (
            ("detect", receipt.detect_s),
            ("isolate", receipt.isolate_s),
            ("recover", receipt.recover_s),
            ("verify", receipt.verify_s),
        )
    ]
    extra = [
        f"{seconds:.1f} s {what}"
        for seconds, what in ((receipt.waited_s, "waiting for a process"), (receipt.backoff_s, "backing off"))
        if seconds > 0
    ]
    tail = f" (of it {', '.join(extra)})" if extra else ""
    return f"{receipt.total_s:.1f} s: {', '.join(parts)}{tail}"


def _work(receipt: Receipt) -> str:
    again = f"{receipt.steps_redone} steps, {receipt.samples_redone} samples done again"
    attempts = f"attempt {receipt.attempt_before} -> {receipt.attempt_after}"
    certificate = f"certificate {receipt.certificate}"
    return f"{again}; {certificate}; goodput {receipt.goodput:.0%}; {attempts}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES} more in the journal of receipts" if len(names) > _NAMES else ""
    return f"{', '.join(names[:_NAMES])}{more}"


def _stack(stack: str) -> list[str]:
    lines = stack.rstrip().splitlines()
    shown = [line[: _WIDTH - _LABEL] for line in lines[:_STACK_LINES]]
    if len(lines) > len(shown):
        shown.append(f"... {len(lines) - len(shown)} more lines in the journal of receipts")
    return [("  stack" if index == 0 else "").ljust(_LABEL) + line for index, line in enumerate(shown)]


def _labelled(label: str, text: str) -> list[str]:
    first = f"  {label}".ljust(_LABEL)
    return textwrap.wrap(
        " ".join(text.split()) or "-", _WIDTH, initial_indent=first, subsequent_indent=" " * _LABEL
    )


def _row(receipt: Receipt) -> tuple[str, ...]:
    spent = (receipt.detect_s, receipt.isolate_s, receipt.recover_s, receipt.verify_s, receipt.total_s)
    return (
        str(receipt.number),
        receipt.failure_class.value,
        str(receipt.step),
        str(receipt.committed_step),
        str(receipt.victim.rank) if receipt.victim else "-",
        *(f"{seconds:.1f}" for seconds in spent),
        str(receipt.steps_redone),
        receipt.certificate,
        receipt.strategy.value,
    )


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.ljust(width) if head in _TEXT_COLUMNS else cell.rjust(width)
        for head, cell, width in zip(_HEADS, row, widths, strict=True)
    ]
    return " ".join(cells).rstrip()

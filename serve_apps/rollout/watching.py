"""Redrawing a text once a second: in place on a terminal, else a new block where it changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

PERIOD_S = 1.0


def watch(render: Callable[[], str]) -> None:
    """Show what `render` returns until the process is interrupted."""
    if sys.stdout.isatty():
        _redraw(render)
    _follow(render)


def _redraw(render: Callable[[], str]) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(Text.from_ansi(render()), auto_refresh=False, screen=False) as live:
        while True:
            time.sleep(PERIOD_S)
            live.update(Text.from_ansi(render()), refresh=True)


def _follow(render: Callable[[], str]) -> None:
    shown = ""
    while True:
        text = render()
        if text != shown:
            sys.stdout.write(f"{text}\n\n")
            sys.stdout.flush()
            shown = text
        time.sleep(PERIOD_S)

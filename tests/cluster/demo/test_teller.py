from __future__ import annotations

import io

import pytest
from rich.console import Console

from cluster.demo import teller as module
from cluster.demo.teller import Teller


def test_plain_text_keeps_brackets_and_long_lines_whole(teller: Teller, said: io.StringIO):
    teller.step(2, 9, "A [real] model")
    teller.command(["serve", "deploy", "/a b/endpoint.yaml"])
    teller.say("x" * 300 + " [/]")
    text = said.getvalue()
    assert "00:00  2/9  A [real] model" in text
    assert "$ serve deploy '/a b/endpoint.yaml'" in text
    assert f"  {'x' * 300} [/]\n" in text
    assert "\x1b" not in text


def test_without_a_terminal_a_moving_line_is_told_now_and_then(
    teller: Teller, said: io.StringIO, monkeypatch: pytest.MonkeyPatch
):
    with teller.moving("starting") as move:
        move("step 1/40")
        monkeypatch.setattr(module, "_PLAIN_PERIOD_S", 0.0)
        move("step 2/40")
        move("step 2/40")
    assert said.getvalue() == "    step 2/40\n"


def test_on_a_terminal_it_is_rewritten():
    screen = io.StringIO()
    terminal = Teller(Console(file=screen, force_terminal=True, width=80))
    with terminal.moving("starting 2 workers") as move:
        move("step 3/40  loss 0.5")
    assert "step 3/40  loss 0.5" in screen.getvalue()
    assert "\x1b[2K" in screen.getvalue()

"""The picture of a rollout with its decisions and looks, as one HTML file that needs no other."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

from serve_apps.rollout import quantities
from serve_apps.rollout.picture.chart import Chart

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222a33; background: #fff; max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem; }
img { width: 100%; height: auto; background: #fff; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 2rem; font-size: 13px; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #dfe3e8; vertical-align: top; }
th { font-weight: 600; }
tr.acts { background: #eef4fb; }
@media (prefers-color-scheme: dark) {
  body { color: #dfe3e8; background: #171b20; }
  th, td { border-color: #333b45; }
  tr.acts { background: #223044; }
}
"""


def page(chart: Chart, picture: bytes) -> str:
    """The page; `picture` is a PNG."""
    name = f"{chart.model}:{chart.candidate}"
    title = f"rollout {chart.rollout}: {name} beside {chart.stable}"
    ended = f"{chart.phase.value} ({chart.reason})" + (f": {chart.why}" if chart.why else "")
    decisions = [[_at(mark.at), mark.command, mark.sentence] for mark in chart.marks]
    looks = [
        [str(one.seq), _at(one.at), f"{one.answers:,}", str(one.step), one.action, one.why]
        for one in chart.looks
    ]
    acting = [one.action != "hold" for one in chart.looks]
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n'
        f"<h1>{html.escape(title)}</h1>\n<p>{html.escape(ended)}</p>\n"
        f"<p>It began {chart.began:%Y-%m-%d %H:%M:%S} UTC; times are since then.</p>\n"
        f'<img alt="weights and gates over time" src="data:image/png;base64,{_embedded(picture)}">\n'
        f"<h2>Decisions</h2>\n{_table(['at', 'command', 'what'], decisions)}"
        f"<h2>Looks</h2>\n"
        f"{_table(['look', 'at', 'answers of the candidate', 'step', 'did', 'why'], looks, acting)}</html>\n"
    )


def _embedded(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def _at(seconds: float) -> str:
    return quantities.span(seconds)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], acting: Sequence[bool] = ()) -> str:
    lines = ["<table>", f"<tr>{''.join(f'<th>{html.escape(head)}</th>' for head in heads)}</tr>"]
    for index, row in enumerate(rows):
        mark = ' class="acts"' if index < len(acting) and acting[index] else ""
        lines.append(f"<tr{mark}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>")
    return "\n".join([*lines, "</table>", ""])

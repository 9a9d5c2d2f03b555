"""`report.html`: one file that needs nothing else, in light and dark."""

from __future__ import annotations

from html import escape
from string import Template

from cluster.demo import plots
from cluster.demo.figures import MIN_ACCURACY
from cluster.demo.report import Report, clock
from cluster.demo.state import Demo
from cluster.storage import Storage

_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --line: #d5dae1; --dim: #5b6675; --paper: #ffffff; --ink: #1c2430; }
@media (prefers-color-scheme: dark) {
  :root { --line: #38414e; --dim: #9aa7b8; --paper: #14181e; --ink: #e4e9f0; }
}
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 52rem;
  background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .4rem; }
p { margin: .2rem 0; color: var(--dim); }
svg { width: 100%; height: auto; color: var(--ink); }
dl { display: grid; gap: .8rem; margin: 1.6rem 0 0;
  grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); }
dl div { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem; }
dt { color: var(--dim); font-size: .85rem; }
dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
dd small { display: block; font-size: .8rem; color: var(--dim); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td { border-bottom: 1px solid var(--line); padding: .25rem .2rem; }
td:last-child { text-align: right; }
</style>
<h1>$title</h1>
<p>$subtitle</p>
<dl>$cards</dl>
<h2>Loss, and the kill</h2>
$loss
<h2>Who answered, over time</h2>
$split
<h2>Held-out accuracy, measured through the gateway</h2>
$accuracy
<h2>Where the time went</h2>
<table>$phases</table>
</html>
""")


def write_html(demo: Demo, report: Report) -> None:
    """Write `report.html`. Raises StorageError for a disk that is full or cannot be written."""
    Storage(str(demo.directory)).write_atomic("report.html", render(demo, report).encode())


def render(demo: Demo, report: Report) -> str:
    """The page."""
    base, tuned = report.version_base, report.version_tuned
    values = {base: report.accuracy_base, tuned: report.accuracy_tuned}
    return _PAGE.substitute(
        title=escape(f"{report.model}: {base} to {tuned}"),
        subtitle=escape(
            f"{report.started_at:%Y-%m-%d %H:%M} UTC, run {report.train.run}, "
            f"{report.cores} cores, {report.memory_gib:g} GiB"
        ),
        cards="".join(_card(*card) for card in _cards(report)),
        loss=plots.svg(plots.loss_figure(demo.losses, report.train), "loss"),
        split=plots.svg(plots.split_figure(demo.answers(), demo.marks, base, tuned), "split"),
        accuracy=plots.svg(plots.accuracy_figure(values, MIN_ACCURACY), "accuracy"),
        phases="".join(
            f"<tr><td>{escape(phase.name)}</td><td>{phase.seconds:.1f} s</td></tr>" for phase in report.phases
        ),
    )


def _cards(report: Report) -> list[tuple[str, str, str]]:
    train, split, asked = report.train, report.split, report.requests
    return [
        (
            "accuracy",
            f"{report.accuracy_base:.1%} → {report.accuracy_tuned:.1%}",
            f"{report.snippets} held-out snippets",
        ),
        ("recovered in", f"{train.recovered_s:.1f} s", f"{train.steps_redone} of {train.steps} steps again"),
        ("share observed", f"{split.observed:.1%}", f"expected {split.expected:.0%}, {split.keys} keys"),
        ("requests failed", str(asked.failed), f"of {asked.total}, {asked.streams} of them streams"),
        ("rollback", f"{report.rollback_s:.2f} s", "command to first answer of the old version"),
        ("duration", clock(report.duration_s), "without set-up"),
    ]


def _card(name: str, value: str, note: str) -> str:
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"

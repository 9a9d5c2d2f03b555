"""The record, its verdict and its pages, from a made-up run."""

from __future__ import annotations

import io
import json
import random
import re
from html.parser import HTMLParser

import pytest

from cluster.demo import page, plots, report, story
from cluster.demo.client import Answer, Question
from cluster.demo.figures import LossPoint, Mark, Phase, SplitFigures, TrainFigures
from cluster.demo.report import Report
from cluster.demo.state import Demo
from cluster.errors import LinnetError

BEGAN = 1_000.0
COMMANDS = {"start": 30, "promote": 70, "rollback": 85, "start again": 95, "promote again": 97}


def answers() -> list[Answer]:
    chance = random.Random(7)
    found = []
    for number in range(900):
        at = number / 8
        share = 0.0 if at < 30 else 0.1 if at < 70 else 1.0 if at < 85 else 0.0 if at < 95 else 1.0
        version = "v2" if chance.random() < share else "v1"
        question = Question(f"key-{number}", "Hello", 8, stream=number % 2 == 0)
        found.append(Answer(question, BEGAN + at, BEGAN + at + 0.2, version, 200, "Positive", ""))
    return found


@pytest.fixture
def finished(demo: Demo) -> Demo:
    first = [LossPoint(step=n, loss=4 / n, attempt=1, at=n) for n in range(1, 13)]
    second = [LossPoint(step=n, loss=4 / n, attempt=2, at=20 + n) for n in range(11, 41)]
    demo.losses = [*first, *second]
    demo.measured = answers()
    demo.marks = [Mark(name=name.removesuffix(" again"), at=BEGAN + at) for name, at in COMMANDS.items()]
    demo.accuracy, demo.snippets, demo.rollback_s = {"v1": 0.645, "v2": 0.91}, 200, 1.23
    demo.train = TrainFigures(
        run="demo-x", steps=40, workers=2, kills=1, killed_after_step=12, steps_redone=2, recovered_s=17.4,
        first_loss=4.0, last_loss=0.1,
    )  # fmt: skip
    demo.split = SplitFigures(expected=0.1, observed=0.1075, keys=400, standard_errors=0.5, misrouted=0)
    demo.phases = [Phase(name="training", seconds=240.0), Phase(name="split", seconds=12.5)]
    return demo


@pytest.fixture
def made(finished: Demo) -> Report:
    return report.make_report(finished)


def test_the_files_hold_what_was_found(finished: Demo, said: io.StringIO):
    assert story.conclude(finished) == 0
    told = json.loads((finished.directory / "report.json").read_text())
    assert (told["accuracy_base"], told["accuracy_tuned"]) == (0.645, 0.91)
    assert told["train"]["workers"] == 2
    assert (told["train"]["kills"], told["train"]["steps_redone"], told["train"]["recovered_s"]) == (
        1,
        2,
        17.4,
    )
    assert (told["split"]["expected"], told["split"]["observed"], told["split"]["keys"]) == (0.1, 0.1075, 400)
    assert (told["requests"]["total"], told["requests"]["failed"], told["requests"]["streams"]) == (
        900,
        0,
        450,
    )
    assert sum(told["requests"]["by_version"].values()) == 900
    assert (told["rollback_s"], told["duration_s"] >= 0) == (1.23, True)
    assert told["phases"][0] == {"name": "training", "seconds": 240.0}
    assert "64.5% -> 91.0%" in said.getvalue()
    assert "report.html" in said.getvalue()


def test_what_falls_short_is_an_error_after_the_files_are_written(finished: Demo):
    finished.accuracy["v2"] = 0.8
    with pytest.raises(LinnetError, match=r"80\.0%") as caught:
        story.conclude(finished)
    assert caught.value.exit_code == 1
    assert (finished.directory / "report.json").exists()
    assert (finished.directory / "report.html").exists()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"requests": {"failed": 2, "failures": {"status 503": 2}}}, "demo.requests_failed"),
        ({"split": {"standard_errors": 4.1}}, "demo.split"),
        ({"accuracy_tuned": 0.849}, "demo.accuracy"),
    ],
)
def test_each_shortfall_has_its_code(made: Report, changes: dict, code: str):
    tree = made.model_dump()
    for name, value in changes.items():
        tree[name] = {**tree[name], **value} if isinstance(value, dict) else value
    found = report.shortfall(Report.model_validate(tree))
    assert found is not None
    assert found.code == code


def test_a_good_run_falls_short_of_nothing(made: Report):
    assert report.shortfall(made) is None


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("href", "xlink:href", "src") and value:
                self.links.append(value)


def test_the_page_stands_alone(finished: Demo, made: Report):
    html = page.render(finished, made)
    found = Elements()
    found.feed(html)
    assert found.names.count("svg") == 3
    assert "script" not in found.names
    assert "//" not in re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL)
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    assert len(found.ids) == len(set(found.ids))
    assert "worker killed" in html
    assert "rollback" in html
    assert "currentColor" in html
    assert plots._INK not in html


@pytest.mark.parametrize("picture", ["loss", "split", "accuracy"])
def test_each_picture_is_drawn(finished: Demo, picture: str):
    figure = {
        "loss": lambda: plots.loss_figure(finished.losses, finished.train),
        "split": lambda: plots.split_figure(finished.measured, finished.marks, "v1", "v2"),
        "accuracy": lambda: plots.accuracy_figure(finished.accuracy, 0.85),
    }[picture]()
    assert plots.svg(figure, picture).startswith("<svg")


def test_marks_too_near_to_tell_apart_share_a_label():
    marks = [Mark(name=name, at=at) for name, at in (("promote", 97), ("start", 95), ("rollback", 50))]
    assert plots.joined(marks, nearer_s=5) == [
        Mark(name="rollback", at=50),
        Mark(name="start, promote", at=95),
    ]


def test_hollow_points_are_those_trained_again(finished: Demo):
    axes = plots.loss_figure(finished.losses, finished.train).axes[0]
    again = next(line for line in axes.lines if line.get_label() == "trained again after the kill")
    assert list(again.get_xdata()) == [11, 12]

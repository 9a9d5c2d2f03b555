from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from cluster.errors import ConflictError, NotFoundError
from serve_apps.rollout.picture import page, plotting
from serve_apps.rollout.picture.chart import chart
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Start
from tests.serve_apps.rollout.judged_world import QUICK
from tests.serve_apps.rollout.world import MODEL

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def charted(store, judged):
    def call(spec=QUICK, seconds=600):
        rollout = judged.begin(spec).rollout_id
        judged.run(judged.controller(), rollout, seconds=seconds)
        with store.database.snapshot() as session:
            return chart(session, rollout)

    return call


def test_a_promotion_is_charted_from_begin_to_end(charted):
    found = charted()
    assert [mark.command for mark in found.marks] == ["begin", "advance", "advance", "advance", "promote"]
    assert [mark.weight for mark in found.marks] == [0, 5, 50, 100, 100]
    assert [track.gate.name for track in found.tracks] == ["error_rate max_ratio", "ttft p50 max_ratio"]
    assert all(len(track.findings) == len(found.looked_at) == len(found.looks) for track in found.tracks)
    assert min(found.looked_at) >= 0
    answers = [line.answers for line in found.looks]
    assert answers == sorted(answers)


def test_every_gate_has_a_panel_with_its_limit_and_the_verdicts_their_colours(judged, charted):
    judged.errors.update(v1=0.02, v2=0.3)
    found = charted()
    figure = plotting.draw(found)
    weights, *gates = figure.axes
    assert [axes.get_title(loc="left") for axes in gates] == [
        "error_rate max_ratio: at most 1.5x",
        "ttft p50 max_ratio: at most 1.5x",
    ]
    assert weights.get_title(loc="left").startswith("error_rate max_ratio failed")
    assert "taken back" in [text.get_text() for text in weights.texts]
    limits = [line for line in gates[0].lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in limits] == [[1.5, 1.5]]
    red = plotting._VERDICTS["fail"]
    assert [line.get_color() for line in gates[0].lines].count(red) == 1
    assert red not in [line.get_color() for line in gates[1].lines]


def test_the_limit_is_always_seen(judged, charted):
    judged.errors.update(v1=0.001, v2=0.6)
    for axes in plotting.draw(charted()).axes[1:]:
        low, high = axes.get_ylim()
        assert low < 1.5 < high


@pytest.mark.parametrize("seconds", [0, 1, 30])
def test_one_that_has_hardly_begun_is_drawn_too(charted, seconds):
    assert plotting.png(charted(seconds=seconds)).startswith(PNG)


def test_gates_without_a_measure_show_their_verdicts(charted):
    spec = RolloutSpec.model_validate(
        {
            **QUICK.stored(),
            "gates": [
                {"metric": "restarts", "max": 1},
                {"prometheus": {"url": "http://127.0.0.1:9090", "query": "up"}, "max": 3},
            ],
        }
    )
    figure = plotting.draw(charted(spec, seconds=20))
    assert [text.get_text() for text in figure.axes[2].texts] == ["it has not answered yet"]


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]


def test_the_page_holds_all_that_it_shows(charted):
    found = charted()
    picture = plotting.png(found)
    text = page.page(found, picture)
    reader = Reader()
    reader.feed(text)
    [source] = reader.links
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == picture
    assert not {"script", "link", "iframe"} & set(reader.tags)
    assert re.search(r"url\(|@import|https?://", text) is None
    assert reader.tags.count("tr") == 2 + len(found.marks) + len(found.looks)


def test_what_people_wrote_is_shown_and_not_run(store, judged, charted):
    judged.errors.update(v1=0.02, v2=0.5)
    found = charted()
    text = page.page(
        type(found)(**{name: getattr(found, name) for name in found.__slots__} | {"why": "<b>&"}), b""
    )
    assert "&lt;b&gt;&amp;" in text
    assert "<b>" not in text


def test_an_unknown_one_and_one_by_hand_have_no_picture(store):
    with store.database.snapshot() as session, pytest.raises(NotFoundError):
        chart(session, 3)
    Rollouts(store).run(Start(model=MODEL, candidate="v2", weight=10))
    with store.database.snapshot() as session, pytest.raises(ConflictError):
        chart(session, 1)

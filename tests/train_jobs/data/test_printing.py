from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from train_jobs.data.formats import Format
from train_jobs.data.inspecting import Inspection, Segment, View, histogram
from train_jobs.data.printing import as_text

VIEW = View("tokens", [3, 4, 9], [], 0.25, "a:0", [Segment("ask ", False), Segment("say", True)])
REPORT = Inspection(Path("a.jsonl"), Format.TEXT, "f" * 64, {"empty text": 12, "no messages": 1}, VIEW)


def test_trained_text_stands_between_markers_with_and_without_colour():
    assert "ask ⟦say⟧" in as_text(REPORT, colour=False)
    assert "\x1b[2mask \x1b[0m\x1b[1m⟦say⟧\x1b[0m" in as_text(REPORT, colour=True)


def test_reasons_are_counted_in_a_column():
    assert "  12  empty text\n   1  no messages\n" in as_text(REPORT, colour=False)


@given(st.lists(st.integers(0, 5000), min_size=1).map(sorted))
def test_a_histogram_covers_every_length_once(lengths):
    bins = histogram(lengths)
    assert 1 <= len(bins) <= 10
    assert [b.count for b in bins] == [sum(b.low <= n <= b.high for n in lengths) for b in bins]
    assert sum(b.count for b in bins) == len(lengths)
    assert all(left.high + 1 == right.low for left, right in pairwise(bins))

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from train_jobs.data.formats import Format
from train_jobs.data.inspecting import Inspection, Segment, View, histogram
from train_jobs.data.printing import as_text

SAID = [Segment("ask ", False), Segment("say", True)]
VIEW = View("tokens", [3, 4, 9], 0.25, "a:0", {"segments": SAID})
DROPPED = {"empty text": [f"a:{n}" for n in range(12)], "no messages": ["b\x1b:1"]}
REPORT = Inspection(Path("a.jsonl"), Format.TEXT, "f" * 64, DROPPED, VIEW)


def test_trained_text_stands_between_markers_with_and_without_colour():
    assert "ask ⟦say⟧" in as_text(REPORT, colour=False)
    assert "\x1b[2mask \x1b[0m\x1b[1m⟦say⟧\x1b[0m" in as_text(REPORT, colour=True)


def test_reasons_are_counted_in_a_column_with_a_few_of_the_rows_named():
    told = "  12  empty text (a:0, a:1, a:2, …)\n   1  no messages (b\N{REPLACEMENT CHARACTER}:1)\n"
    assert told in as_text(REPORT, colour=False)


def test_of_a_pair_both_answers_are_shown():
    view = replace(VIEW, sample={"chosen": SAID, "rejected": [Segment("ask ", False), Segment("nay", True)]})
    assert "\n\nchosen:\nask ⟦say⟧\n\nrejected:\nask ⟦nay⟧\n" in as_text(
        replace(REPORT, view=view), colour=False
    )


@given(st.lists(st.integers(0, 5000), min_size=1).map(sorted))
def test_a_histogram_covers_every_length_once(lengths):
    bins = histogram(lengths)
    assert 1 <= len(bins) <= 10
    assert [b.count for b in bins] == [sum(b.low <= n <= b.high for n in lengths) for b in bins]
    assert sum(b.count for b in bins) == len(lengths)
    assert all(left.high + 1 == right.low for left, right in pairwise(bins))

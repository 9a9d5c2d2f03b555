import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import IntegrityError
from tests.train_jobs.data.package import write_package
from train_jobs.data import sentiment
from train_jobs.data.sentiment import Snippet, clear_and_distinct, read_snippets, split


def snippet(text, rating, number=0):
    return Snippet(f"tweets-{number}", "tweets", text, rating)


def test_snippets_of_every_source_are_read(tmp_path, monkeypatch):
    package = tmp_path / "p.tar.gz"
    rows = {"tweets": [(1.5, "£5 &amp; good")], "nyt": [(-0.3, "plain"), (-3.0, "tab\there")]}
    monkeypatch.setattr(sentiment, "ARCHIVE_SHA256", write_package(package, rows))
    assert read_snippets(package) == [
        Snippet("tweets-1", "tweets", "£5 & good", 1.5),
        Snippet("nyt-1", "nyt", "plain", -0.3),
        Snippet("nyt-2", "nyt", "tab\there", -3.0),
    ]


def test_another_archive_is_refused(tmp_path):
    package = tmp_path / "p.tar.gz"
    write_package(package, {"tweets": [(1.5, "other")]})
    with pytest.raises(IntegrityError, match="sha256"):
        read_snippets(package)


@pytest.mark.parametrize("keep", [0, 60, 200])
def test_a_damaged_package_is_refused(tmp_path, keep):
    package = tmp_path / "p.tar.gz"
    write_package(package, {"tweets": [(1.5, "x")]})
    package.write_bytes(package.read_bytes()[:keep])
    with pytest.raises(IntegrityError, match="not the package that was expected"):
        read_snippets(package)


def test_unclear_ratings_repeats_and_contradictions_are_left_out():
    kept = clear_and_distinct(
        [
            snippet("Good one.", 2.0, 1),
            snippet("good ONE", 3.0, 2),
            snippet("mixed", 1.0, 3),
            snippet("Mixed!", -1.0, 4),
            snippet("meh", 0.99, 5),
            snippet("bad", -1.0, 6),
            snippet(":(", -2.0, 7),
            snippet(":)", 2.0, 8),
        ]
    )
    assert [(s.id, s.label) for s in kept] == [
        ("tweets-1", "positive"),
        ("tweets-6", "negative"),
        ("tweets-7", "negative"),
        ("tweets-8", "positive"),
    ]


RATED = st.lists(
    st.tuples(st.text(max_size=6), st.floats(-4, 4)).map(lambda pair: snippet(*pair)), max_size=80
)


@given(snippets=RATED, seed=st.integers(0, 3), held_out=st.integers(1, 6))
def test_splits_share_no_text_and_lose_none(snippets, seed, held_out):
    distinct = clear_and_distinct(snippets)
    splits = split(distinct, seed=seed, held_out_per_label=held_out)
    keys = [s.key for rows in splits.values() for s in rows]
    assert sorted(keys) == sorted({s.key for s in distinct})
    for rows in (splits["validation"], splits["test"]):
        for label in ("positive", "negative"):
            assert sum(s.label == label for s in rows) <= held_out


def test_held_out_splits_are_balanced_and_follow_from_the_seed_alone():
    snippets = [snippet(f"text {n}", 2.0 if n % 4 else -2.0, n) for n in range(200)]
    splits = split(snippets, seed=1, held_out_per_label=20)
    for name in ("validation", "test"):
        labels = [s.label for s in splits[name]]
        assert (labels.count("positive"), labels.count("negative")) == (20, 20)
    assert split(snippets[::-1], seed=1, held_out_per_label=20) == splits
    assert split(snippets, seed=2, held_out_per_label=20)["test"] != splits["test"]

from __future__ import annotations

from collections import Counter
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import IntegrityError
from cluster.state.tallies import GatewayTally
from cluster.tally import Pairs, Sketch, Tally, VersionTally
from serve_apps.rollout.bookmark import Bookmark, news
from serve_apps.rollout.looks import Counted

NOW = datetime(2026, 3, 1)


def row(gateway, revision, tally):
    return GatewayTally(
        gateway=gateway, model="m", revision=revision, applied_at=NOW, seen_at=NOW, tally=tally
    )


def tally(of: Counter) -> Tally:
    """From counts by version, kind, name, and stratum and bucket, or outcome."""
    versions: dict[str, dict] = {}
    pairs: dict[str, Counter] = {}
    for (version, kind, name, *place), count in of.items():
        if kind == "pairs":
            outcomes = pairs.setdefault(name, Counter())
            outcomes["n"] += count
            outcomes.update({place[0]: count} if place[0] != "neither" else {})
            continue
        side = versions.setdefault(version, {"counts": {}, "sketches": {}})
        if kind == "counts":
            side["counts"][name] = count
        else:
            stratum, bucket = place
            sketch = side["sketches"].setdefault(name, {}).setdefault(stratum, {"zeros": 0, "buckets": []})
            if bucket is None:
                sketch["zeros"] += count
            else:
                sketch["buckets"].append((bucket, count))
    return Tally(versions=versions, pairs={name: Pairs(**counts) for name, counts in pairs.items()})


def flat(one: Counted) -> Counter:
    found: Counter = Counter()
    for version, side in (("v2", one.candidate), ("v1", one.baseline)):
        found.update({(version, "counts", name): count for name, count in side.counts.items()})
        for metric, strata in side.sketches.items():
            for stratum, sketch in strata.items():
                place = (version, "sketches", metric, stratum)
                found.update({(*place, bucket): count for bucket, count in sketch.buckets})
                found.update({(*place, None): sketch.zeros})
    for check, pairs in one.pairs.items():
        outcomes = {field: getattr(pairs, field) for field in ("both", "only_candidate", "only_stable")}
        outcomes["neither"] = pairs.n - sum(outcomes.values())
        found.update({(None, "pairs", check, outcome): count for outcome, count in outcomes.items()})
    return +found


COUNTS = st.sampled_from([(v, "counts", name) for v in ("v1", "v2", "v3") for name in ("requests", "errors")])
SKETCHES = st.tuples(
    st.sampled_from(["v1", "v2"]),
    st.just("sketches"),
    st.sampled_from(["ttft", "itl"]),
    st.sampled_from(["p0", "p1"]),
    st.sampled_from([None, -3, 0, 7]),
)
PAIRS = st.tuples(
    st.none(),
    st.just("pairs"),
    st.sampled_from(["refusal", "empty"]),
    st.sampled_from(["both", "only_candidate", "only_stable", "neither"]),
)
PLACES = st.one_of(COUNTS, SKETCHES, PAIRS)
INCREMENTS = st.dictionaries(PLACES, st.integers(1, 9), max_size=4).map(Counter)
GATEWAYS = st.sampled_from(["g1", "g2", "g3"])
HAPPENINGS = st.lists(
    st.one_of(
        st.tuples(GATEWAYS, st.integers(1, 3), INCREMENTS),
        st.tuples(GATEWAYS, st.just("goes"), st.none()),
        st.tuples(st.just(""), st.just("is read"), st.none()),
    ),
    max_size=25,
)


@given(HAPPENINGS)
def test_however_often_it_is_read_everything_is_counted_once(happenings):
    """A row that goes takes along only what was not read; another life of a gateway has another name."""
    rows: dict[tuple[str, int], Counter] = {}
    unread: Counter = Counter()
    expected: Counter = Counter()
    total: Counter = Counter()
    lives: Counter = Counter()
    bookmark = Bookmark()
    for gateway, what, increment in [*happenings, ("", "is read", None)]:
        name = f"{gateway}.{lives[gateway]}"
        if what == "goes":
            lives[gateway] += 1
            rows = {place: seen for place, seen in rows.items() if place[0] != name}
            unread = Counter({place: n for place, n in unread.items() if place[0] != name})
        elif what == "is read":
            stored = [row(*place, tally(seen)) for place, seen in sorted(rows.items())]
            counted, bookmark = news(stored, bookmark, candidate="v2", baseline="v1")
            for one in counted:
                total.update({(one.revision, *place): n for place, n in flat(one).items()})
            assert [one.revision for one in counted] == sorted({one.revision for one in counted})
            for place, n in unread.items():
                expected[place[1:]] += n
            unread = Counter()
        else:
            rows[name, what] = rows.get((name, what), Counter()) + increment
            unread.update({(name, what, *place): n for place, n in increment.items() if place[0] != "v3"})
    assert total == expected


@given(HAPPENINGS)
def test_what_was_read_is_no_news(happenings):
    rows: dict[tuple[str, int], Counter] = {}
    for gateway, what, increment in happenings:
        if increment is not None:
            rows[gateway, what] = rows.get((gateway, what), Counter()) + increment
    stored = [row(*place, tally(seen)) for place, seen in sorted(rows.items())]
    _, bookmark = news(stored, Bookmark(), candidate="v2", baseline="v1")
    again = Bookmark.model_validate_json(bookmark.model_dump_json())
    assert news(stored, again, candidate="v2", baseline="v1") == ((), bookmark)


def test_gateways_add_up_by_revision():
    one = tally(Counter({("v2", "counts", "requests"): 3, ("v2", "sketches", "ttft", "p0", 4): 3}))
    counted, _ = news(
        [row("g1", 1, one), row("g1", 2, one), row("g2", 2, one)], Bookmark(), candidate="v2", baseline="v1"
    )
    assert [(each.revision, each.candidate.counts) for each in counted] == [
        (1, {"requests": 3}),
        (2, {"requests": 6}),
    ]
    assert counted[1].candidate.sketches == {"ttft": {"p0": Sketch(buckets=((4, 6),))}}
    assert counted[1].baseline == VersionTally()


def test_a_row_that_is_gone_is_forgotten():
    one = tally(Counter({("v2", "counts", "requests"): 3}))
    _, bookmark = news([row("g1", 1, one), row("g2", 1, one)], Bookmark(), candidate="v2", baseline="v1")
    _, bookmark = news([row("g2", 1, one)], bookmark, candidate="v2", baseline="v1")
    assert set(bookmark.read) == {"g2/1"}


def test_a_sketch_that_has_shrunk_is_an_error():
    more, fewer = (tally(Counter({("v2", "sketches", "ttft", "p0", 4): n})) for n in (3, 2))
    _, bookmark = news([row("g1", 1, more)], Bookmark(), candidate="v2", baseline="v1")
    with pytest.raises(IntegrityError):
        news([row("g1", 1, fewer)], bookmark, candidate="v2", baseline="v1")

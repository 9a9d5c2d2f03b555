from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.config import validate
from cluster.errors import ConfigError
from cluster.judging import Fresh, Judging, Match, Shadow, ShadowWhen, TextChecks
from cluster.scripts import SCRIPTS

WORDS = st.text(alphabet="abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12)
MATCHES = st.builds(lambda key_prefix: Match(key_prefix=key_prefix), WORDS) | st.builds(
    lambda header: Match(header=header), st.dictionaries(WORDS, st.text(max_size=9), min_size=1, max_size=3)
)
JUDGING = st.builds(
    Judging,
    rollout=st.integers(1, 10**6),
    match=st.lists(MATCHES, max_size=3).map(tuple),
    shadow=st.none()
    | st.builds(Shadow, sample=st.floats(0.001, 1.0), when=st.sampled_from(list(ShadowWhen))),
    texts=st.builds(
        TextChecks,
        banned=st.lists(WORDS, max_size=3).map(tuple),
        scripts=st.lists(st.sampled_from(sorted(SCRIPTS)), max_size=3).map(tuple),
        per_second=st.floats(0.01, 1000),
    ),
    fresh=st.none() | st.builds(Fresh, since=st.datetimes(), others=st.integers(1, 99)),
)


@given(JUDGING)
def test_it_comes_back_from_json_as_it_was(judging):
    assert Judging.model_validate_json(judging.model_dump_json()) == judging
    assert Judging.model_validate(judging.model_dump(mode="json")) == judging


def test_what_is_left_out():
    judging = Judging(rollout=3)
    assert (judging.match, judging.shadow, judging.fresh) == ((), None, None)
    assert judging.texts == TextChecks(banned=(), scripts=(), per_second=20)
    assert Shadow(sample=0.5).when is ShadowWhen.ALWAYS


def test_names_of_headers_and_scripts_are_lower_case():
    assert Match(header={"X-Region": " eu "}).header == {"x-region": "eu"}
    assert TextChecks(scripts=("Latin", "HAN")).scripts == ("latin", "han")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"header": {}},
        {"header": {"x-a": "1"}, "key_prefix": "a"},
        {"key_prefix": ""},
        {"header": {"x region": "eu"}},
        {"header": {"x-region:": "eu"}},
        {"header": {"Authorization": "Bearer sk-1"}},
        {"header": {"cookie": "a=b"}},
        {"headers": {"x-a": "1"}},
    ],
)
def test_a_match_that_makes_no_sense_is_refused(given):
    with pytest.raises(ValidationError):
        Match(**given)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Shadow, {"sample": 0}),
        (Shadow, {"sample": 1.01}),
        (Shadow, {}),
        (Shadow, {"sample": 1, "when": "never"}),
        (TextChecks, {"per_second": 0}),
        (TextChecks, {"banned": ["  "]}),
        (TextChecks, {"scripts": ["latn"]}),
        (Judging, {}),
    ],
)
def test_what_else_makes_no_sense(kind, given):
    with pytest.raises(ValidationError):
        kind(**given)


def test_an_unknown_script_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"`cyrilic` is not a script\. Did you mean `cyrillic`\?"):
        validate({"scripts": ["cyrilic"]}, TextChecks, source="a.yaml")

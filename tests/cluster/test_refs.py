import string
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import UsageError
from cluster.refs import AliasRef, VersionRef, parse_ref, parse_version_ref

_FIRST = string.ascii_letters + string.digits
NAMES = st.builds(
    lambda first, rest: first + rest, st.sampled_from(_FIRST), st.text(alphabet=_FIRST + "._-", max_size=127)
)


@given(model=NAMES, version=NAMES)
def test_a_printed_version_parses_to_itself(model, version):
    ref = VersionRef(model=model, version=version)

    assert parse_ref(str(ref)) == ref == parse_version_ref(str(ref))


@given(model=NAMES, alias=NAMES)
def test_a_printed_alias_parses_to_itself_and_is_no_exact_version(model, alias):
    ref = AliasRef(model=model, alias=alias)

    assert parse_ref(str(ref)) == ref
    with pytest.raises(UsageError) as caught:
        parse_version_ref(str(ref))
    assert caught.value.code == "ref.not_exact"


@given(model=NAMES)
def test_a_bare_model_means_its_stable_version(model):
    assert parse_ref(model) == AliasRef(model=model, alias="stable")


@given(text=st.text())
def test_any_text_either_parses_to_names_that_are_safe_as_directories_or_is_refused(text):
    with suppress(UsageError):
        for part in parse_ref(text).model_dump().values():
            assert part[0] in _FIRST
            assert set(part) <= set(_FIRST + "._-")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "m:",
        "m@",
        ":v1",
        "m:v1:v2",
        "m@a@b",
        "m/v",
        "../m:v",
        "m:..",
        "m:v 1",
        ".m:v",
        "m:v1\n",
        "m" * 129,
    ],
)
def test_what_names_no_version_is_refused_with_an_example(text):
    with pytest.raises(UsageError) as caught:
        parse_ref(text)
    assert "smollm2:v1" in caught.value.hint

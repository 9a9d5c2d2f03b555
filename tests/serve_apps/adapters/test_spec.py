import pytest

from cluster.errors import UsageError
from cluster.refs import VersionRef
from serve_apps.adapters.spec import read_adapters

BASE = VersionRef(model="m", version="v1")


@pytest.mark.parametrize("nothing", [None, {}, {"adapters": []}])
def test_without_a_list_there_are_none(nothing):
    assert read_adapters(nothing, BASE) == ()


def test_each_is_wanted_once_in_the_order_of_the_file():
    found = read_adapters({"adapters": ["m:v3", "m:v2", "m:v3"]}, BASE)
    assert [str(ref) for ref in found] == ["m:v3", "m:v2"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"adapter": ["m:v2"]}, "Did you mean `adapters`"),
        ({"adapters": "m:v2"}, "adapters"),
        ({"adapters": ["m@candidate"]}, "exact version"),
        ({"adapters": ["n:v2"]}, "no adapter of `m:v1`"),
        ({"adapters": ["m:v1"]}, "no adapter of `m:v1`"),
    ],
)
def test_what_is_no_adapter_of_the_model_is_refused(given, message):
    with pytest.raises(UsageError, match=message):
        read_adapters(given, BASE)

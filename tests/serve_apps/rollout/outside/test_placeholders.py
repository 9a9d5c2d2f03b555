from __future__ import annotations

import pytest

from serve_apps.rollout.outside.placeholders import Names, fill, require_known

NAMES = Names("smollm2", "v3", "v2")


def test_names_take_the_place_of_placeholders_and_nothing_else_changes():
    query = 'rate(x{model="{{model}}",version=~"{{ candidate }}|{{stable}}"}[5m]) > {{model}}'
    assert fill(require_known(query), NAMES) == ('rate(x{model="smollm2",version=~"v3|v2"}[5m]) > smollm2')


@pytest.mark.parametrize("query", ["{{}}", "{{version}}", "up{{{model}}}"])
def test_a_placeholder_that_stands_for_nothing_is_named(query):
    with pytest.raises(ValueError, match="is no placeholder"):
        require_known(query)

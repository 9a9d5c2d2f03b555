import json
import math

from cluster.cli import output


def test_numbers_that_json_does_not_know_are_null(capsys):
    output.emit({"loss": math.nan, "rows": [{"limit": math.inf, "step": 3}], "pair": (1.5, -math.inf)})
    printed = json.loads(capsys.readouterr().out, parse_constant=lambda name: f"not JSON: {name}")
    assert printed == {"loss": None, "rows": [{"limit": None, "step": 3}], "pair": [1.5, None]}

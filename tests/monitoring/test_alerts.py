"""Each alert fires when it should, after its time, with its values in its text; and stays silent else."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.monitoring.cases import FIRES, QUIET, SILENT, Fires
from tests.monitoring.shipped import ALERTS, FOLDER


@pytest.fixture
def judge(promtool, tmp_path):
    """Lets promtool compute the rules over some series, and compare the alerts with what is expected."""

    def run(series: dict[str, str], expected: list[dict[str, Any]]) -> None:
        test = {
            "interval": "15s",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "alert_rule_test": expected,
        }
        whole = {"rule_files": [str(FOLDER / "rules.yaml")], "evaluation_interval": "15s", "tests": [test]}
        file = tmp_path / "test.yaml"
        file.write_text(yaml.safe_dump(whole, allow_unicode=True, width=1000))
        promtool("test", "rules", file)

    return run


def expected_of(case: Fires) -> dict[str, Any]:
    rule = ALERTS[case.alert]
    annotations = {**rule["annotations"], "description": case.text}
    return {"exp_labels": {**rule["labels"], **case.labels}, "exp_annotations": annotations}


@pytest.mark.parametrize("case", FIRES, ids=lambda case: case.alert)
def test_it_fires_after_its_time(judge, case):
    expected = [{"eval_time": case.fires, "alertname": case.alert, "exp_alerts": [expected_of(case)]}]
    if case.not_yet:
        expected.append({"eval_time": case.not_yet, "alertname": case.alert, "exp_alerts": []})
    judge(case.input, expected)


@pytest.mark.parametrize("case", SILENT, ids=lambda case: f"{case.alert}: {case.why}")
def test_it_stays_silent(judge, case):
    judge(case.input, [{"eval_time": at, "alertname": case.alert, "exp_alerts": []} for at in case.at])


def test_nothing_fires_where_all_is_well_and_nobody_asks(judge):
    judge(QUIET, [{"eval_time": "14m", "alertname": alert, "exp_alerts": []} for alert in ALERTS])


def test_every_alert_is_tried_both_ways_and_before_its_time():
    assert {case.alert for case in FIRES} == {case.alert for case in SILENT} == set(ALERTS)
    assert {case.alert for case in FIRES if not case.not_yet} == {
        name for name, rule in ALERTS.items() if "for" not in rule
    }


@pytest.mark.parametrize("name", ALERTS)
def test_it_says_what_how_much_how_bad_and_what_to_do(name):
    rule = ALERTS[name]
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert all(text.endswith(".") for text in rule["annotations"].values())
    assert "{{" not in rule["annotations"]["summary"] + rule["annotations"]["runbook"]
    assert re.search(r"\$value|\bvalue\b", rule["annotations"]["description"])
    assert re.search(r"\d|scalar|absent|> 0", rule["expr"])


def test_the_goal_for_the_first_token_is_written_once():
    text = (FOLDER / "rules.yaml").read_text()
    assert len(re.findall(r"vector\(", text)) == 1
    assert "scalar(linnet:ttft_goal:seconds)" in ALERTS["LinnetTtftHigh"]["expr"]

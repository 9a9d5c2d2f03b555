"""What of the board can be judged without Grafana."""

from __future__ import annotations

import itertools
import re

import pytest

from serve_apps.gateway.metrics import GatewayMetrics
from tests.monitoring.shipped import ALERTS, BOARD, board_expressions, names, panels, variable_queries

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
KINDS = {"timeseries", "stat", "heatmap"}

# Units that Grafana knows, or writes as they are (`suffix:`).
UNITS = {"short", "s", "reqps", "percent", "percentunit", "bytes", "suffix: tok/s"}


def test_it_is_a_board_that_grafana_imports_and_may_not_change_under_its_id():
    assert BOARD["schemaVersion"] == 39
    assert BOARD["title"] == "Linnet"
    assert BOARD["uid"] == "linnet"
    assert "id" not in BOARD
    assert "__inputs" not in BOARD


def test_ids_are_unique():
    found = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(found)) == len(found)
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)


def test_panels_lie_within_the_grid_and_on_no_other():
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= COLUMNS, panel["title"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]


def test_rows_follow_each_other_and_none_is_empty():
    kinds = [panel["type"] for panel in BOARD["panels"]]
    tops = [panel["gridPos"]["y"] for panel in BOARD["panels"]]
    assert tops == sorted(tops)
    assert kinds[0] == "row"
    assert ("row", "row") not in itertools.pairwise(kinds)
    assert set(kinds) == KINDS | {"row"}


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_in_one_sentence_and_in_which_unit(panel):
    assert re.fullmatch(r"[A-Z0-9][^\n]*[^.]\.", panel["description"])
    assert ". " not in panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_asks_the_chosen_prometheus(panel):
    assert panel["datasource"] == SOURCE
    assert all(target["datasource"] == SOURCE for target in panel["targets"])
    refs = [target["refId"] for target in panel["targets"]]
    assert len(set(refs)) == len(refs) > 0


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_legend_names_labels_that_its_query_keeps(panel):
    for target in panel["targets"]:
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"(?:by|group_left) \(([^)]*)\)", target["expr"]))))
        recorded = {"model", "version", "ip"} if re.search(r"\w:\w", target["expr"]) else set()
        bare = {"instance"} if target["expr"].startswith("up") else set()
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept | recorded | bare


def test_the_choices_are_a_prometheus_models_and_versions():
    choices = {one["name"]: one for one in BOARD["templating"]["list"]}
    assert list(choices) == ["datasource", "model", "version"]
    assert choices["datasource"]["type"] == "datasource"
    assert choices["datasource"]["query"] == "prometheus"
    for name in ("model", "version"):
        assert choices[name]["datasource"] == SOURCE
        # With All chosen, requests that named nothing that is served are shown as well.
        assert choices[name]["allValue"] == ".*"
    assert [query.rpartition(", ")[2] for query in variable_queries()] == ["model)", "version)"]
    assert BOARD["annotations"]["list"][0]["datasource"] == SOURCE


def test_the_board_shows_everything_that_a_gateway_counts():
    shown = {
        name.removesuffix("_total").removesuffix("_bucket")
        for expression in board_expressions().values()
        for name in names(expression)
    }
    # The role is shown by way of the recording rule.
    shown |= {"linnet_gateway_version_info"}
    collectors = GatewayMetrics().registry._collector_to_names
    assert {collector._name for collector in collectors} - shown == set()


@pytest.mark.parametrize(
    ("alert", "title"),
    [
        ("LinnetErrorsHigh", "Share of 5xx"),
        ("LinnetLatencyHigh", "Mean E2E"),
        ("LinnetHostMemoryHigh", "Memory"),
    ],
)
def test_lines_in_panels_are_where_the_alerts_begin(alert, title):
    [panel] = [panel for panel in panels() if panel["title"] == title]
    drawn = panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"]
    assert drawn == float(re.search(r"> ([\d.]+)$", ALERTS[alert]["expr"])[1])

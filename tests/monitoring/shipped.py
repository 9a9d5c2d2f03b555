"""The files of docs/monitoring, read, and the names in their PromQL."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.support.markdown import CHECKOUT

FOLDER = CHECKOUT / "docs" / "monitoring"
BOARD = json.loads((FOLDER / "linnet.json").read_text())
GROUPS = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}

# What Grafana puts in before it asks Prometheus.
_VARIABLES = {"$__rate_interval": "5m", "$model": ".*", "$version": ".*"}

_NO_NAMES = re.compile(
    r"\"[^\"]*\"|\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"
)
_NAME = re.compile(r"\b[a-zA-Z_:][a-zA-Z0-9_:]*\b(?!\s*\()")
_WORDS = {"and", "or", "unless", "bool", "offset"}


def panels() -> list[dict[str, Any]]:
    """Every panel that shows something, not the rows between them."""
    return [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def board_expressions() -> dict[str, str]:
    """PromQL of the board by where it stands, with Grafana's variables filled in."""
    return {
        f"{panel['title']} {target['refId']}": _filled(target["expr"]) for panel, target in _targets()
    } | {f"annotation {one['name']}": _filled(one["expr"]) for one in BOARD["annotations"]["list"]}


def variable_queries() -> list[str]:
    """What fills the board's lists of choices: `label_values(SELECTOR, LABEL)`."""
    asked = [one for one in BOARD["templating"]["list"] if one["type"] == "query"]
    return [_filled(one["query"]["query"]) for one in asked]


def expressions() -> dict[str, str]:
    """All PromQL that ships, by where it stands."""
    rules = {rule.get("record") or rule["alert"]: rule["expr"] for rule in RULES}
    selectors = {query: query.removeprefix("label_values(").split(",")[0] for query in variable_queries()}
    return rules | board_expressions() | selectors


def names(expression: str) -> set[str]:
    """The metrics that a PromQL expression reads."""
    return set(_NAME.findall(_NO_NAMES.sub(" ", expression))) - _WORDS


def _targets() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    return ((panel, target) for panel in panels() for target in panel["targets"])


def _filled(expression: str) -> str:
    for variable, value in _VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression

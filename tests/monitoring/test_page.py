"""The page on monitoring says what the files say."""

from __future__ import annotations

from tests.monitoring.shipped import ALERTS
from tests.support.markdown import CHECKOUT, code, tables


def test_the_table_of_alerts_is_what_the_rules_are():
    [(_, rows)] = tables(CHECKOUT / "docs" / "monitoring.md", "alerts")
    assert [code(row[0])[0] for row in rows] == list(ALERTS)
    for row, rule in zip(rows, ALERTS.values(), strict=True):
        told = rule["annotations"]
        assert row[1:] == [
            rule["labels"]["severity"],
            rule.get("for", "at once"),
            told["summary"],
            told["runbook"],
        ]

"""What promtool says of the files."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml

from tests.monitoring.shipped import FOLDER, RULES, expressions

# Lines that a user may take the comment sign from.
OPTIONAL = re.compile(r"^( *)# ((?:authorization|alerting|file_sd_configs): [{\[].*)$", re.MULTILINE)


@pytest.fixture
def folder(tmp_path):
    """The files where a user would put them, with the secrets that they name."""
    folder = shutil.copytree(FOLDER, tmp_path / "monitoring")
    for secret in ("ray_token", "linnet_key"):
        (folder / secret).write_text("secret")
    return folder


def test_the_rules_are_rules(promtool):
    assert f"SUCCESS: {len(RULES)} rules found" in promtool("check", "rules", FOLDER / "rules.yaml")


def test_the_configuration_is_one_and_finds_the_rules(promtool, folder):
    said = promtool("check", "config", folder / "prometheus.yaml")
    assert "SUCCESS: 1 rule files found" in said


def test_so_is_what_its_comments_offer(promtool, folder):
    text = (folder / "prometheus.yaml").read_text()
    keys = [name.partition(":")[0] for _, name in OPTIONAL.findall(text)]
    assert keys == ["alerting", "authorization", "authorization", "file_sd_configs"]
    (folder / "prometheus.yaml").write_text(OPTIONAL.sub(r"\1\2", text))
    promtool("check", "config", folder / "prometheus.yaml")
    jobs = yaml.safe_load((folder / "prometheus.yaml").read_text())["scrape_configs"]
    assert jobs[0]["authorization"] == jobs[0]["http_sd_configs"][0]["authorization"]


def test_the_configuration_explains_each_of_its_keys():
    lines = (FOLDER / "prometheus.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"(\w+:|  - job_name:)", line):
            assert "#" in lines[number - 1] or "#" in lines[number + 1], line


def test_all_promql_of_rules_and_board_parses(promtool, tmp_path):
    rules = [
        {"record": f"checked:{number}", "expr": text} for number, text in enumerate(expressions().values())
    ]
    wrapped = tmp_path / "wrapped.yaml"
    wrapped.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", wrapped)


def test_promql_that_is_none_would_be_found(promtool, tmp_path):
    wrapped = tmp_path / "wrapped.yaml"
    rule = {"record": "wrong", "expr": "sum by model (up)"}
    wrapped.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": [rule]}]}))
    with pytest.raises(AssertionError, match="parse error"):
        promtool("check", "rules", wrapped)

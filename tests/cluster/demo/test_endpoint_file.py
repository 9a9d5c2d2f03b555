from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cluster.demo.endpoint_file import application_name, endpoint_yaml
from cluster.demo.serving import TEMPLATE
from cluster.errors import ConfigError


def test_the_products_own_file_becomes_one_with_two_versions():
    shipped, made = (
        yaml.safe_load(TEMPLATE.read_text()),
        yaml.safe_load(endpoint_yaml(TEMPLATE, "smollm2", ["v1", "v7"])),
    )
    assert {key: made[key] for key in made if key != "applications"} == {
        key: shipped[key] for key in shipped if key != "applications"
    }
    gateway, controller, *versions = made["applications"]
    assert [gateway, controller] == shipped["applications"][:2]
    assert [version["name"] for version in versions] == [application_name("smollm2", v) for v in ("v1", "v7")]
    assert versions[1]["route_prefix"] == "/_versions/smollm2/v7"
    assert versions[1]["args"] == {**shipped["applications"][2]["args"], "version": "smollm2:v7"}


def test_a_template_without_a_version_is_refused(tmp_path: Path):
    file = tmp_path / "endpoint.yaml"
    applications = [{"import_path": f"serve_apps.app:{name}"} for name in ("gateway", "rollouts")]
    file.write_text(yaml.safe_dump({"applications": applications}))
    with pytest.raises(ConfigError, match=":version"):
        endpoint_yaml(file, "smollm2", ["v1"])

"""The demo's `serve deploy` file, made from the one that the product ships."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import ConfigError

_HEADER = "# Written by the demo from serve_apps/smollm2.yaml; written anew at each deploy.\n"


def endpoint_yaml(template: Path, model: str, labels: Sequence[str]) -> str:
    """A file with the gateway and the controller of `template`, and one application for each of `labels`.

    Raises ConfigError when the template has no gateway, no controller or no version to copy.
    """
    tree = yaml.safe_load(template.read_text(encoding="utf-8"))
    gateway = _first(tree, ":gateway", template)
    controller = _first(tree, ":rollouts", template)
    version = _first(tree, ":version", template)
    tree["applications"] = [gateway, controller, *(_application(version, model, label) for label in labels)]
    return _HEADER + yaml.safe_dump(tree, sort_keys=False)


def application_name(model: str, label: str) -> str:
    """The name of a version's Serve application."""
    return f"{model}-{label}"


def _application(version: dict[str, Any], model: str, label: str) -> dict[str, Any]:
    made = copy.deepcopy(version)
    made["name"] = application_name(model, label)
    made["route_prefix"] = f"/_versions/{model}/{label}"
    made["args"]["version"] = f"{model}:{label}"
    return made


def _first(tree: dict[str, Any], ending: str, template: Path) -> dict[str, Any]:
    for application in tree.get("applications", []):
        if str(application.get("import_path", "")).endswith(ending):
            found: dict[str, Any] = application
            return found
    raise ConfigError(
        f"{template} has no application whose import_path ends with `{ending}`.", code="demo.template"
    )

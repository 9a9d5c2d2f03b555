"""Steps before training: is the machine fit, a cluster, the model, the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster import runtime
from cluster.demo.client import MODEL
from cluster.demo.figures import next_label
from cluster.demo.state import Demo
from cluster.errors import EnvironmentSetupError


def examine_machine(demo: Demo) -> None:
    """Raises EnvironmentSetupError `demo.doctor` with what is wrong and the mend."""
    checks = demo.commands.start_linnet("doctor").findings()["data"]
    failed = [check for check in checks if check["status"] == "fail"]
    for check in checks:
        if check["status"] == "warn":
            demo.teller.say(f"warning: {check['name']}: {check['found']}; {check['mend']}")
    if failed:
        raise EnvironmentSetupError(
            "This machine is not fit: " + "; ".join(f"{c['name']}: {c['found']}" for c in failed) + ".",
            code="demo.doctor",
            hint="; ".join(c["mend"] for c in failed) + " (`linnet doctor` checks again)",
        )
    demo.teller.say(f"{len(checks)} checks, none failed")


def start_cluster(demo: Demo) -> None:
    """Before the long steps, so that a cluster that runs already is told at once."""
    before = runtime.current(demo.settings)
    demo.foreign_guard = before.guard_pid if before else None
    demo.cluster_begun = True
    detail = demo.commands.linnet("up")["detail"]
    demo.guard_pid, demo.serve_url = detail["guard_pid"], detail["serve_url"]
    demo.commands.environment = detail["environment"]
    demo.teller.say(f"Ray runs at {detail['address']}; the endpoint will be {demo.serve_url}/v1")


def get_model_and_data(demo: Demo) -> None:
    """Both at once: one waits for the disk where the other computes."""
    rows = _versions(demo)
    bases = [row["version"] for row in rows if row["kind"] == "base"]
    importing = None
    if bases:
        demo.base = "v1" if "v1" in bases else bases[0]
        demo.teller.say(f"{MODEL}:{demo.base} is in the store already")
    else:
        demo.base = next_label([row["version"] for row in rows])
        target = f"{MODEL}:{demo.base}"
        importing = demo.commands.start_linnet("models", "import", MODEL, "--as", target, "--yes")
    prepared = demo.commands.linnet("data", "prepare", "icwsm2014", "--yes")["detail"]
    demo.data = Path(prepared["path"])
    sizes = ", ".join(f"{split['rows']} {name}" for name, split in prepared["splits"].items())
    demo.teller.say(f"data: {sizes} snippets that people rated")
    if importing is not None:
        detail = importing.result()["detail"]
        size = f"{detail['parameters']:,} parameters, {detail['bytes']:,} bytes"
        demo.teller.say(f"{MODEL}:{demo.base}: {size}")
        rows = _versions(demo)
    _choose_labels(demo, rows)


def _versions(demo: Demo) -> list[dict[str, Any]]:
    listed = demo.commands.look_linnet("models", "list")["data"]
    return [row for row in listed if row["model"] == MODEL]


def _choose_labels(demo: Demo, rows: list[dict[str, Any]]) -> None:
    demo.tuned = next_label([row["version"] for row in rows])
    demo.stable = next((row["version"] for row in rows if "stable" in row["aliases"]), None)
    demo.rollout_active = any("candidate" in row["aliases"] for row in rows)

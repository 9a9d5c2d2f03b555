from __future__ import annotations

import io
import json
import stat
import sys
from pathlib import Path

import pytest

from cluster.demo import commands as commands_module
from cluster.demo import preparing
from cluster.demo.client import MODEL
from cluster.demo.state import Demo
from cluster.errors import EnvironmentSetupError
from cluster.registry import ModelStore


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A `linnet` that finds given checks, since a test must not depend on what this machine has."""

    def find(*checks: dict[str, str]) -> None:
        program = tmp_path / "linnet"
        failed = any(check["status"] == "fail" for check in checks)
        text = json.dumps({"data": checks})
        program.write_text(f"#!{sys.executable}\nprint({text!r})\nraise SystemExit({int(failed)})\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(commands_module, "_program", lambda _name: str(program))

    return find


def check(status: str, name: str = "disk") -> dict[str, str]:
    return {"name": name, "status": status, "found": "1 GiB free", "mend": "free 9 GiB"}


def test_a_machine_that_is_not_fit_stops_the_demo_with_the_mend(demo: Demo, doctor):
    doctor(check("pass"), check("fail"), check("fail", "memory"))
    with pytest.raises(EnvironmentSetupError, match=r"disk: 1 GiB free; memory") as caught:
        preparing.examine_machine(demo)
    assert "free 9 GiB" in caught.value.hint


def test_a_warning_is_told_and_does_not_stop(demo: Demo, doctor, said: io.StringIO):
    doctor(check("warn"), check("pass"))
    preparing.examine_machine(demo)
    assert "warning: disk: 1 GiB free; free 9 GiB" in said.getvalue()
    assert "2 checks, none failed" in said.getvalue()


def test_a_second_demo_takes_fresh_labels_and_sees_what_the_first_left(demo: Demo, two_versions: ModelStore):
    two_versions.set_alias(MODEL, "candidate", "v2", expected=None, reason="left")
    preparing._choose_labels(demo, preparing._versions(demo))
    assert (demo.tuned, demo.stable, demo.rollout_active) == ("v3", "v1", True)

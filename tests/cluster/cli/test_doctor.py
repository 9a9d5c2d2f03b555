import json
import subprocess
import sys

import pytest

from cluster.cli.main import main


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LINNET_HOME", str(tmp_path))
    for name in ("LINNET_ROOT", "LINNET_STATE_URL", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def test_a_failed_check_ends_in_1_and_says_the_mend(monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "nothing answers at 127.0.0.1:1" in out
    assert "linnet up" in out
    assert " fail." in out


def test_json_agrees_with_the_exit_code(capsys):
    code = main(["doctor", "--json"])
    rows = json.loads(capsys.readouterr().out)["data"]
    assert set(rows[0]) == {"name", "status", "found", "mend"}
    assert code == int(any(row["status"] == "fail" for row in rows))


def test_it_imports_none_of_the_heavy_packages():
    script = (
        "import sys; from cluster.cli.main import main; main(['doctor', '--json'])\n"
        "print({'torch', 'vllm', 'transformers', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "set()"

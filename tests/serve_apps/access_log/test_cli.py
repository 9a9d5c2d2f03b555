from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from cluster.cli.main import main
from cluster.storage import Storage
from serve_apps.access_log import files
from serve_apps.access_log.spool import Spool
from serve_apps.gateway.observation import Observation
from tests.serve_apps.access_log.samples import lines, row


@pytest.fixture
def logged(tmp_path, monkeypatch, root):
    """Two settled rows below the storage root and one in a spool of this machine."""
    monkeypatch.setenv("LINNET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LINNET_ROOT", root)
    now = datetime.now(UTC)
    old = row(
        request_id="old", at=now - timedelta(hours=3), status=503, error_code="no_replica", version="v2"
    )
    files.store(Storage(root), "gw-0", lines(old, row(request_id="new", at=now, key_hash="12ab")))
    spool = Spool(tmp_path / "home" / "spool" / "access", "gw-1")
    spool.append(lines(row(request_id="newest", at=now + timedelta(seconds=1), ttft_s=0.5)))
    yield
    spool.close()


def found(capsys, *arguments) -> list[dict]:
    capsys.readouterr()
    assert main(["serve", "logs", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["data"]


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        ((), ["newest", "new", "old"]),
        (("m",), ["newest", "new", "old"]),
        (("m", "--version", "v2"), ["old"]),
        (("--since", "2h"), ["newest", "new"]),
        (("--until", "2h"), ["old"]),
        (("--status", "5xx"), ["old"]),
        (("--status", "200"), ["newest", "new"]),
        (("--request-id", "new"), ["new"]),
        (("--key", "12"), ["new"]),
        (("--limit", "1"), ["newest"]),
        (("--status", "404"), []),
    ],
)
def test_filters(logged, capsys, arguments, ids):
    assert [one["request_id"] for one in found(capsys, *arguments)] == ids


def test_json_has_all_columns_and_the_table_the_main_ones(logged, capsys):
    [one] = found(capsys, "--limit", "1")
    assert list(one) == list(Observation.__struct_fields__)
    assert datetime.fromisoformat(one["at"]).tzinfo is not None
    assert main(["serve", "logs", "m"]) == 0
    head, first, *rest = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["AT", "REQUEST", "ID"]
    assert first.split()[2] == "newest"
    assert len(rest) == 2
    assert main(["serve", "logs", "--status", "404"]) == 0
    assert capsys.readouterr().out == "No request fits.\n"


def test_the_summary(logged, capsys):
    first, second = found(capsys, "m", "--summary")
    assert (first["version"], first["requests"], first["error_share"]) == ("v1", 2, 0.0)
    assert (second["version"], second["requests"], second["error_share"]) == ("v2", 1, 1.0)
    assert first["ttft_s"] == {"p50": 0.5, "p95": 0.5, "p99": 0.5}
    assert main(["serve", "logs", "--summary"]) == 0
    assert "100.00%" in capsys.readouterr().out


def test_an_unknown_model_gets_a_suggestion(logged, capsys):
    assert main(["serve", "logs", "nm", "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "serve.unknown_endpoint"
    assert "Did you mean `m`?" in error["message"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(("--since", "soon"), "soon"), (("--status", "9xx"), "9xx"), (("--limit", "0"), "limit")],
)
def test_what_cannot_be_read_is_a_usage_error(logged, capsys, arguments, word):
    assert main(["serve", "logs", *arguments]) == 2
    assert word in capsys.readouterr().err


def test_the_commands_of_serve_load_no_pyarrow():
    heavy = {"ray", "torch", "vllm", "pyarrow", "aiohttp"}
    code = f"import sys, serve_apps.cli; print(*{heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""

import json
from datetime import timedelta

import pytest

from cluster.cli.main import main
from cluster.state import keys
from cluster.state.tables import KeyRow, utc_now
from tests.serve_apps.rollout import world


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("LINNET_HOME", str(tmp_path))
    store = world.make_store(tmp_path)
    yield store
    store.database.dispose()


def run(capsys, *arguments) -> tuple[int, dict]:
    capsys.readouterr()
    code = main(["serve", "keys", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def create(capsys, name, *flags) -> dict:
    code, told = run(capsys, "create", name, *flags, "--yes")
    assert code == 0, told
    return told


def rows(store) -> list[KeyRow]:
    with store.database.snapshot() as session:
        return keys.everything(session)


def test_no_keys_yet(store, capsys):
    assert run(capsys)[1]["data"] == []
    assert main(["serve", "keys"]) == 0
    assert "linnet serve keys create" in capsys.readouterr().out


def test_a_key_is_made_shown_once_listed_and_revoked(store, capsys):
    told = create(
        capsys, "ada", "--model", "tiny", "--model", "tiny", "--admin", "--requests-per-minute", "60",
        "--tokens-per-minute", "1000", "--max-concurrent", "4", "--expires", "30d",
    )  # fmt: skip
    assert (told["target"], told["applied"], told["dry_run"]) == ("ada", True, False)
    secret = told["detail"]["key"]
    assert secret.startswith("sk-linnet-")
    code, listed = run(capsys, "list")
    (row,) = listed["data"]
    assert code == 0
    assert (row["name"], row["status"], row["models"], row["admin"]) == ("ada", "valid", ["tiny"], True)
    assert (row["requests_per_minute"], row["tokens_per_minute"], row["max_concurrent"]) == (60, 1000, 4)
    assert row["expires_at"] == told["detail"]["expires_at"]
    assert row["expires_at"].endswith("+00:00")
    assert secret not in json.dumps(listed)
    assert secret.startswith(f"sk-linnet-{row['prefix']}")

    code, told = run(capsys, "revoke", row["prefix"], "--yes")
    assert (code, told["target"], told["applied"]) == (0, "ada", True)
    assert run(capsys)[1]["data"][0]["status"] == "revoked"


def test_people_read_the_secret_on_a_line_of_its_own(store, capsys):
    assert main(["serve", "keys", "create", "ada", "--yes"]) == 0
    shown = capsys.readouterr()
    (secret,) = [line for line in shown.out.splitlines() if line.startswith("sk-linnet-")]
    assert secret not in shown.err
    assert "create the key ada: for all models" in shown.err
    assert main(["serve", "keys"]) == 0
    assert "ada" in capsys.readouterr().out


def test_a_dry_run_shows_the_plan_and_makes_nothing(store, capsys):
    code, told = run(capsys, "create", "ada", "--dry-run")
    assert (code, told["applied"], told["dry_run"], told["detail"]["key"]) == (0, False, True, None)
    assert rows(store) == []
    create(capsys, "ada")
    code, told = run(capsys, "revoke", "ada", "--dry-run")
    assert (code, told["applied"]) == (0, False)
    assert rows(store)[0].revoked_at is None


@pytest.mark.parametrize("arguments", [("create", "bob"), ("revoke", "ada")])
def test_without_a_terminal_and_without_yes_nothing_happens(store, capsys, arguments):
    create(capsys, "ada")
    code, told = run(capsys, *arguments)
    assert (code, told["error"]["code"]) == (2, "usage.not_confirmed")
    assert [(row.name, row.revoked_at) for row in rows(store)] == [("ada", None)]


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("create", "ada", "--yes"), 1, "key.exists"),
        (("create", "a b", "--yes"), 2, "key.invalid"),
        (("create", "", "--yes"), 2, "key.invalid"),
        (("create", "bob", "--model", "tiny:v1", "--yes"), 2, "key.invalid"),
        (("create", "bob", "--model", "a b", "--yes"), 2, "ref.invalid"),
        (("create", "bob", "--model", "tinny", "--yes"), 3, "key.unknown_model"),
        (("create", "bob", "--requests-per-minute", "-5", "--yes"), 2, "usage.arguments"),
        (("create", "bob", "--tokens-per-minute", "0", "--yes"), 2, "usage.arguments"),
        (("create", "bob", "--max-concurrent", "2147483648", "--yes"), 2, "usage.arguments"),
        (("create", "bob", "--max-concurrent", "x", "--yes"), 2, "usage.arguments"),
        (("create", "bob", "--expires", "-3d", "--yes"), 2, "key.lifetime"),
        (("revoke", "adda", "--yes"), 3, "key.unknown"),
        (("revok", "ada", "--yes"), 2, "usage.arguments"),
    ],
)
def test_bad_input_is_refused_with_a_code_and_a_hint(store, capsys, arguments, code, error):
    create(capsys, "ada")
    found, told = run(capsys, *arguments)
    assert (found, told["error"]["code"]) == (code, error)
    assert told["error"]["hint"]
    assert [row.name for row in rows(store)] == ["ada"]
    assert rows(store)[0].revoked_at is None


@pytest.mark.parametrize("arguments", [("create", "bob", "--model", "tinny"), ("revoke", "adda")])
def test_names_that_are_nearly_right_get_a_suggestion(store, capsys, arguments):
    create(capsys, "ada")
    assert "Did you mean" in run(capsys, *arguments, "--yes")[1]["error"]["message"]


def test_a_revoked_key_says_so_and_its_name_is_free(store, capsys):
    create(capsys, "ada")
    run(capsys, "revoke", "ada", "--yes")
    code, told = run(capsys, "revoke", "ada", "--yes")
    assert (code, told["error"]["code"]) == (1, "key.revoked")
    create(capsys, "ada")
    assert len(rows(store)) == 2


def test_an_expired_key_is_listed_as_such(store, capsys):
    create(capsys, "ada", "--expires", "30d")
    with store.database.transaction() as session:
        keys.find(session, "ada").expires_at = utc_now() - timedelta(seconds=1)
    assert run(capsys)[1]["data"][0]["status"] == "expired"

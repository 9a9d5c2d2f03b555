import json

import pytest

from cluster.cli.main import main
from tests.train_jobs.data.package import many_snippets, write_package
from train_jobs.data import sentiment


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LINNET_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LINNET_ROOT", raising=False)
    monkeypatch.delenv("LINNET_STATE_URL", raising=False)
    path = tmp_path / f"home/cache/packages/{sentiment.REQUIREMENT}-source/p.tar.gz"
    digest = write_package(path, many_snippets(1000))
    monkeypatch.setattr(sentiment, "ARCHIVE_SHA256", digest)
    return tmp_path / "home"


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [{"prompt": "Good?", "completion": "yes\x1b[31m"}, {"prompt": "x", "completion": ""}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(capsys, *arguments):
    code = main([*map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_prepare_list_and_prepare_again(home, capsys):
    code, out, _ = run(capsys, "data", "prepare", "icwsm2014", "--yes", "--json")
    done = json.loads(out)
    assert (code, done["applied"], done["dry_run"]) == (0, True, False)
    assert done["target"] == str(home / "data/icwsm2014")
    assert done["detail"]["splits"]["test"]["rows"] == 400

    for arguments in (["data", "--json"], ["data", "list", "--json"]):
        code, out, _ = run(capsys, *arguments)
        assert code == 0
        assert [(row["dataset"], row["train"]) for row in json.loads(out)["data"]] == [("icwsm2014", 200)]

    code, out, _ = run(capsys, "data", "prepare", "icwsm2014")
    assert code == 0
    assert "Already in place" in out
    assert "next: linnet data inspect" in out


def test_prepare_asks_first(home, capsys):
    code, out, err = run(capsys, "data", "prepare", "icwsm2014")
    assert (code, out) == (2, "")
    assert "vaderSentiment==3.3.2" in err
    assert not (home / "data").exists()


def test_a_dry_run_changes_nothing(home, capsys):
    code, out, _ = run(capsys, "data", "prepare", "icwsm2014", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["dry_run"] is True
    assert not (home / "data").exists()


def test_inspect_shows_the_loss_mask_and_what_was_dropped(home, rows, tokenizer, tmp_path, capsys):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    code, out, _ = run(capsys, "data", "inspect", rows, "--tokenizer", tmp_path / "tokenizer")
    assert code == 0
    assert "prompt-completion" in out
    assert "1 usable, 1 dropped" in out
    assert "1  empty answer (a.jsonl:1)" in out
    assert "<|im_start|>assistant\n⟦yes�[31m<|im_end|>⟧" in out
    assert "\x1b" not in out


def test_inspect_as_json(home, rows, tokenizer, tmp_path, capsys):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    code, out, _ = run(capsys, "data", "inspect", rows, "--tokenizer", tmp_path / "tokenizer", "--json")
    data = json.loads(out)["data"]
    assert (code, data["usable"], data["unit"]) == (0, 1, "tokens")
    assert data["dropped"] == {"empty answer": 1}
    assert data["dropped_ids"] == {"empty answer": ["a.jsonl:1"]}
    assert [part["trained"] for part in data["sample"]["segments"]] == [False, True, False]


def test_inspect_without_a_tokenizer_in_the_store_counts_characters(home, rows, capsys):
    code, out, err = run(capsys, "data", "inspect", rows)
    assert code == 0
    assert "Length in characters" in out
    assert "smollm2@stable is not in the store" in err


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    lines = [{"prompt": "Good?", "chosen": "yes", "rejected": "never"}, {"prompt": "Good?", "chosen": "yes"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_inspect_shows_both_answers_of_a_pair(home, pairs, tokenizer, tmp_path, capsys):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    code, out, _ = run(capsys, "data", "inspect", pairs, "--tokenizer", tmp_path / "tokenizer")
    assert code == 0
    assert "format       preferences" in out
    assert "1  no value in `rejected` (pairs.jsonl:1)" in out
    chosen, rejected = out.split("\nchosen:\n")[1].split("\nrejected:\n")
    assert "Good?<|im_end|>\n<|im_start|>assistant\n⟦yes<|im_end|>⟧" in chosen
    assert "Good?<|im_end|>\n<|im_start|>assistant\n⟦never<|im_end|>⟧" in rejected


def test_inspect_shows_both_answers_without_a_tokenizer_and_as_json(home, pairs, capsys):
    _, out, _ = run(capsys, "data", "inspect", pairs, "--json")
    data = json.loads(out)["data"]
    said = {
        name: [part["text"] for part in data["sample"][name] if part["trained"]]
        for name in ("chosen", "rejected")
    }
    assert said == {"chosen": ["yes"], "rejected": ["never"]}
    assert data["length"]["longest"] == len("Good?never")


def test_prepare_preferences(home, capsys):
    code, out, _ = run(capsys, "data", "prepare", "icwsm2014-preferences", "--yes", "--json")
    done = json.loads(out)
    assert (code, done["target"]) == (0, str(home / "data/icwsm2014-preferences"))
    _, out, _ = run(capsys, "data", "inspect", done["target"], "--json")
    assert json.loads(out)["data"]["format"] == "preferences"


def test_inspect_takes_the_training_split_of_a_prepared_dataset(home, capsys):
    run(capsys, "data", "prepare", "icwsm2014", "--yes")
    code, out, _ = run(capsys, "data", "inspect", home / "data/icwsm2014", "--json")
    assert code == 0
    assert json.loads(out)["data"]["path"].endswith("train.parquet")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["inspect", "absent.jsonl"], 3, "data.not_found"),
        (["inspect", "{rows}", "--tokenizer", "smollm2@stable"], 3, "models.unknown_model"),
        (["inspect", "{rows}", "--tokenizer", "{home}"], 2, "data.tokenizer"),
        (["inspect", "{rows}", "--max-length", "0"], 2, "usage.arguments"),
        (["prepare", "icwsm2015", "--yes"], 2, "usage.arguments"),
        (["prepair"], 2, "usage.arguments"),
        (["--json", "list"], 2, "usage.arguments"),
    ],
)
def test_bad_input_ends_in_the_error_form(home, rows, capsys, arguments, code, said):
    given = [argument.format(rows=rows, home=home) for argument in arguments]
    found, out, _ = run(capsys, "data", *given, "--json")
    error = json.loads(out)["error"]
    assert found == code
    assert said in error["code"]
    assert error["hint"]

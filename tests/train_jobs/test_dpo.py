from pathlib import Path

import pytest

import train_jobs
from cluster.errors import ConfigError
from train_jobs import dpo, sft
from train_jobs.spec import Method
from train_jobs.spec_files import load_spec

SHIPPED = Path(train_jobs.__file__).parent / "smollm2_dpo.yaml"


def test_the_shipped_spec_trains_on_the_built_in_preferences(settings):
    spec = load_spec(SHIPPED, settings=settings)
    assert spec.method is Method.DPO
    assert spec.data.train == f"{settings.home}/data/icwsm2014-preferences/train.parquet"
    assert spec.global_batch_size == 16


def test_the_script_trains_by_preferences_whatever_the_file_says(settings, monkeypatch, capsys):
    seen = []

    def run(file, overrides, settings):
        seen.append(load_spec(file, overrides, settings))
        raise ConfigError("far enough")

    monkeypatch.setattr(sft, "run", run)
    assert dpo.main([str(SHIPPED), "max_steps=3", "method=sft", "--json"]) == 2
    assert [(spec.method, spec.max_steps) for spec in seen] == [(Method.DPO, 3)]
    assert "far enough" in capsys.readouterr().out


@pytest.mark.parametrize("given", [[], ["--help"]])
def test_without_a_file_the_usage_is_told(given, capsys):
    assert dpo.main(given) == 2
    assert "usage" in capsys.readouterr().err

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from serve_apps.rollout import compact, explained_words, quantities
from serve_apps.rollout.explaining import arithmetic
from serve_apps.rollout.for_reading import for_reading
from serve_apps.rollout.judge import paired, quantiles
from serve_apps.rollout.look import look
from serve_apps.rollout.looks import LookInputs, Progress, Shown, Signals, Told
from serve_apps.rollout.questions import tests as questions
from serve_apps.rollout.refolding import Redone
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Phase
from tests.serve_apps.rollout.judge.samples import sketch_of

QUALITY = {"metric": "quality", "data": "set.jsonl", "max_drop": "5 points", "min_samples": 10}
AT = datetime(2026, 11, 27, tzinfo=UTC).replace(tzinfo=None)


def spec(gate) -> RolloutSpec:
    return RolloutSpec.model_validate({"candidate": "v2", "gates": [gate]})


def inputs(told) -> LookInputs:
    signals = Signals(phase=Phase.PROGRESSING, step=0, approved=-1, weight=1.0, revision=2, serving=1)
    return LookInputs(at=AT, signals=signals, told=told)


def of(gate, progress) -> str:
    policy = spec(gate)
    [known] = policy.gates
    return for_reading(known, questions(policy)[known.name], progress)


def after_pairs(*differences):
    return look(spec(QUALITY), Progress(), inputs({"quality max_drop": Told(differences=differences)}))


def of_pairs(*differences) -> str:
    return of(QUALITY, after_pairs(*differences)[0])


def of_values(gate, candidate, baseline=()) -> str:
    shown = Shown(candidate=compact.write(sketch_of(candidate)), baseline=compact.write(sketch_of(baseline)))
    return of(gate, Progress(shown={gate["metric"]: shown}))


def test_pairs_that_differ_by_1_have_mcnemars_p_and_the_bootstraps_interval():
    said = of_pairs((-1.0, 20), (0.0, 175), (1.0, 5))
    assert said.startswith(f"20 worse and 5 better of 200: McNemar's p {paired.mcnemar(20, 5):.2g}, ")
    low, high = map(float, said.split("paired bootstrap ")[1].removesuffix(" points").split(" to "))
    assert 2 < low < 7.5 < high < 13
    assert said == of_pairs((-1.0, 20), (0.0, 175), (1.0, 5))


def test_scores_between_0_and_1_have_the_interval_alone():
    assert of_pairs((-0.5, 20), (0.33, 7), (0.0, 73)).startswith("paired bootstrap ")


def test_one_pair_is_enough():
    assert of_pairs((-0.25, 1)).endswith(" points")
    assert of_pairs((0.0, 1)) == "0 worse and 0 better of 1: McNemar's p 1, paired bootstrap 0 to 0 points"


def test_a_quantile_has_the_band_of_both_versions():
    gate = {"metric": "ttft", "quantile": 0.5, "max_ratio": 1.5}
    slow, quick = [0.2 + 0.001 * index for index in range(400)], [0.1] * 2000
    bounds = quantiles.band(sketch_of(slow), 0.5, error=0.05)
    low, high = (quantities.of_metric(spec(gate).gates[0], bound) for bound in bounds)
    assert of_values(gate, slow, quick).startswith(f"p50 by 95% bands: candidate {low} to {high}, baseline ")
    assert "baseline" not in of_values(gate, slow)
    assert "baseline" not in of_values({"metric": "ttft", "quantile": 0.5, "max": "2s"}, slow, quick)


@pytest.mark.parametrize(
    ("gate", "values", "ends"),
    [
        ({"metric": "ttft", "quantile": 0.95, "max": "2s"}, [1.0] * 500, "candidate from 980 ms"),
        ({"metric": "ttft", "quantile": 0.5, "max": "2s"}, [1.0] * 5, "candidate not known"),
        ({"metric": "ttft", "quantile": 0.05, "max": "2s"}, [1.0] * 500, "candidate up to 1 s"),
        ({"metric": "mean_logprob", "quantile": 0.05, "min": -2}, [1.0] * 500, "candidate up to -0.98 nats"),
    ],
)
def test_an_end_that_nothing_bounds_is_left_out(gate, values, ends):
    assert of_values(gate, values).endswith(ends)


@pytest.mark.parametrize(
    "gate",
    [
        QUALITY,
        {"metric": "error_rate", "max_ratio": 1.5},
        {"metric": "ttft", "quantile": 0.5, "max": "2s"},
    ],
)
def test_before_the_first_answer_there_is_nothing_to_read(gate):
    assert of(gate, Progress()) == ""


def test_explain_shows_it_below_the_gate():
    progress, outcome = after_pairs((-1.0, 20), (0.0, 180))
    redone = Redone(1, inputs({}), progress, outcome, outcome)
    shown = arithmetic(spec(QUALITY), redone)
    assert shown[0].for_reading == of(QUALITY, progress)
    assert list(explained_words.gate_lines(shown))[-1].endswith(f"for reading   {shown[0].for_reading}")

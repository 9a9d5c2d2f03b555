from __future__ import annotations

from datetime import timedelta

import pytest

from serve_apps.rollout import view
from serve_apps.rollout.pen import Pen, Tone, pen_for_stdout
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Pause
from serve_apps.rollout.tree import tree
from tests.serve_apps.rollout.world import MODEL

SPEC = RolloutSpec.model_validate(
    {
        "candidate": "v2",
        "steps": [{"weight": 5, "hold": "1m"}, {"weight": 50}, {"approve": True}, {"weight": 100}],
        "shadow": {"sample": 0.2, "when": "thin"},
        "gates": [
            {"metric": "error_rate", "max_ratio": 1.5, "tolerate": "5%", "min_samples": 20},
            {"metric": "ttft", "quantile": 0.5, "max_ratio": 1.5, "min_samples": 20},
            {"metric": "restarts", "max": 1, "severity": "info"},
            {"prometheus": {"url": "http://127.0.0.1:9090", "query": "up"}, "max": 3},
        ],
    }
)


@pytest.fixture
def status(store, judged):
    def read(later: float = 0.0) -> view.RolloutStatus:
        with store.database.snapshot() as session:
            return view.status_of(session, MODEL, judged.clock.now + timedelta(seconds=later))

    return read


def at_first_step(judged, seconds: int) -> int:
    rollout = judged.begin(SPEC).rollout_id
    controller = judged.controller()
    controller.tick()
    for _ in range(seconds):
        judged.serve()
        controller.tick()
    return rollout


def test_it_waits_for_the_first_replica(judged, status):
    judged.begin(SPEC)
    lines = tree(status())
    assert lines[0] == "tiny  pending (started)  rollout 1: v2 at 0%"
    assert lines[1].startswith("├── step 0 of 4, waiting for ")
    assert [line[4:] for line in lines[2:6]] == [
        "├── ◌ 1  5%  hold 1m",
        "├── ◌ 2  50%",
        "├── ◌ 3  a person's approval",
        "└── ◌ 4  100%",
    ]
    assert "├── waits for the first look" in lines


def test_a_step_is_shown_with_its_hold_its_gateways_and_its_gates(judged, status):
    at_first_step(judged, 20)
    found = status(3)
    lines = tree(found)
    assert lines[1] == "├── step 1 of 4, at it for 23 s, 41 s left to hold, look 21 was 3 s ago"
    assert lines[2] == "│   ├── ▶ 1  5%  hold 1m"
    [candidate] = [line for line in lines if line.startswith("├── v2  candidate")]
    assert "1 of 1 gateways route so" in candidate
    assert f"{found.judged.observed:.3g}% of 2,000 requests observed" in candidate
    [ttft] = [line for line in lines if "ttft p50" in line and "at most" in line]
    assert "✔ ttft p50 max_ratio" in ttft
    assert "answers" in ttft
    [asked] = [line for line in lines if "? prometheus" in line]
    assert asked.endswith("inconclusive  it has not answered yet")
    assert "├── shadow on: 20% of stable's requests, 0 copied at this step, 0 without an answer" in lines
    assert any(line.startswith("├── waits for 41 s of 60 s are left to hold") for line in lines)


def test_bands_of_a_quantile_are_below_its_gate(judged, status):
    at_first_step(judged, 20)
    found = status()
    [gate] = [one for one in found.judged.gates if one.gate == "ttft p50 max_ratio"]
    assert gate.for_reading.startswith("p50 by 95% bands: candidate ")
    lines = tree(found)
    [row] = [index for index, line in enumerate(lines) if "✔ ttft p50 max_ratio" in line]
    assert lines[row + 1].endswith(f"for reading: {gate.for_reading}")
    assert sum("for reading" in line for line in lines) == 1


def test_what_is_missing_is_told_in_answers_and_in_seconds(judged, status):
    judged.errors.update(v1=0.04, v2=0.04)
    at_first_step(judged, 10)
    [gate] = [one for one in status().judged.gates if one.gate == "error_rate max_ratio"]
    assert gate.verdict == "inconclusive"
    assert gate.missing_s == pytest.approx(gate.missing * 9 / gate.samples)
    [line] = [line for line in tree(status()) if "error_rate" in line and "at most" in line]
    assert f"≈{gate.missing:,} more answers, ≈" in line
    assert line.endswith(" s at this traffic") or line.endswith(" min at this traffic")


def test_gateways_that_have_not_followed_yet_are_counted(store, judged, status):
    at_first_step(judged, 1)
    old = judged.policy
    judged._write(old.model_copy(update={"revision": old.revision - 1}), "g2")
    found = status()
    assert (found.judged.following, found.judged.gateways) == (1, 2)
    assert status(36).judged.gateways == 0
    assert any("no gateway was heard lately" in line for line in tree(status(36)))


def test_nobody_looks_is_said(judged, status):
    at_first_step(judged, 1)
    assert not any("nobody looks" in line for line in tree(status(60)))
    assert "├── nobody looks: is the application `rollouts` deployed?" in tree(status(91))


def test_a_pause_waits_for_a_person(store, judged, status):
    at_first_step(judged, 1)
    Rollouts(store).run(Pause(model=MODEL))
    lines = tree(status())
    assert lines[0].startswith("tiny  paused (paused)")
    assert "├── waits for `resume`, `promote` or `abort`" in lines


def test_one_that_was_taken_back_names_the_step_the_gate_and_the_time(judged, status):
    judged.errors["v2"] = 0.5
    judged.run(judged.controller(), judged.begin(SPEC).rollout_id)
    judged.serve(0.5)
    lines = tree(status())
    assert lines[0] == "tiny  rolled_back (gate_failed)  rollout 1: v2 at 0%"
    assert lines[1] == "├── step 1 of 4"
    assert lines[2] == "│   ├── ✖ 1  5%  hold 1m"
    assert any(line.startswith("├── last look: error_rate max_ratio failed") for line in lines)
    assert any("in force at 1 of 1 gateways 0.50 s later" in line for line in lines)
    assert not any("waits for" in line for line in lines)


def test_at_100_percent_a_ratio_has_nobody_to_compare_with(store, judged, status):
    spec = SPEC.model_copy(update={"steps": SPEC.steps[-1:], "gates": SPEC.gates[:2]})
    rollout = judged.begin(spec).rollout_id
    judged.run(judged.controller(), rollout)
    [line] = [line for line in tree(status()) if "ttft" in line and "at most" in line]
    assert line.endswith("nobody is left to compare with")


def test_colours_mark_what_the_signs_mark_and_leave_the_text_alone(judged, status):
    at_first_step(judged, 20)
    plain, painted = tree(status()), tree(status(), Pen(colour=True))
    assert "\x1b[36;1m▶ 1  5%  hold 1m\x1b[0m" in painted[2]
    stripped = "\n".join(painted)
    for tone in Tone:
        stripped = stripped.replace(f"\x1b[{tone}m", "")
    assert stripped.replace("\x1b[0m", "") == "\n".join(plain)


def test_without_its_signs_a_terminal_gets_letters(judged, status):
    at_first_step(judged, 20)
    lines = tree(status(), Pen(encoding="ascii"))
    assert "".join(lines).isascii()
    assert lines[2] == "|   |-- > 1  5%  hold 1m"


@pytest.mark.parametrize(
    ("terminal", "environment", "colour"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(monkeypatch, terminal, environment, colour):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    assert pen_for_stdout().colour is colour

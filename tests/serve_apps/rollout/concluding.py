"""What a look has found, made up, and what is concluded from it."""

from __future__ import annotations

from serve_apps.rollout.conclusion import conclude
from serve_apps.rollout.judge.finding import Finding, Verdict
from serve_apps.rollout.looks import Progress, Signals
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Phase

ERRORS, TTFT, LIMIT = "error_rate max_ratio", "ttft p50 max_ratio", "timeout_rate max"
PASSED = dict.fromkeys((ERRORS, TTFT, LIMIT), Verdict.PASS)


def policy(severity="normal", **changes):
    return RolloutSpec.model_validate(
        {
            "candidate": "v2",
            "steps": [{"weight": 5, "hold": "30s"}, {"approve": True}, {"weight": 100}],
            "gates": [
                {"metric": "error_rate", "max_ratio": 1.5, "severity": severity, "min_samples": 20},
                {"metric": "ttft", "quantile": 0.5, "max_ratio": 1.5, "min_samples": 20},
                {"metric": "timeout_rate", "max": "5%", "min_samples": 20},
            ],
            **changes,
        }
    )


def signals(**changes):
    fields = {
        "phase": Phase.PROGRESSING,
        "step": 0,
        "approved": -1,
        "weight": 5.0,
        "revision": 7,
        "gateways": {"g1": 7, "g2": 8},
        "serving": 1,
    }
    return Signals(**{**fields, **changes})


def found(verdict, samples=100, missing=None):
    return Finding(
        verdict=verdict,
        reason=f"it is a {verdict.value}",
        effect=1.0,
        low=None,
        high=None,
        limit=1.5,
        samples=samples,
        missing=missing,
        log_e_worse=0.0,
        log_e_fine=0.0,
    )


def concluded(spec=None, met=None, watched_s=60.0, answered=100, **verdicts):
    named = {"errors": ERRORS, "ttft": TTFT, "limit": LIMIT}
    findings = {name: found(verdict) for name, verdict in PASSED.items()}
    for short, finding in verdicts.items():
        findings[named[short]] = finding if isinstance(finding, Finding) else found(finding)
    known = Progress(step=0, watched_s=watched_s, answered=answered)
    return conclude(spec or policy(), met or signals(), known, findings)

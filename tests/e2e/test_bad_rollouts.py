"""Versions that go bad when they have proven themselves, and ways there and back, on real engines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.registry import ModelStore
from tests.e2e.load import Load
from tests.e2e.rolling import ERRORS, FEW_ERRORS, ITL, REPETITION, Rolling, controller, version_app
from tests.support import faulty
from tests.support.endpoint import MODEL, Endpoint, publish, wait_for
from tests.support.tiny_model import make_tiny_model
from train_jobs import golden

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow]


@dataclass
class Bad:
    """The engine whose fault a file switches on."""

    file: Path

    def begin(self, what: str) -> datetime:
        self.file.write_text(what)
        return datetime.now(UTC).replace(tzinfo=None)

    def end(self) -> None:
        self.file.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def bad(tmp_path_factory) -> Bad:
    return Bad(tmp_path_factory.mktemp("fault") / "fault")


@pytest.fixture(scope="module")
def serving(shared_endpoint, shared_settings, tmp_path_factory, bad) -> Iterator[Endpoint]:
    source = make_tiny_model(tmp_path_factory.mktemp("bad") / "v5", seed=5)
    publish(ModelStore.open(shared_settings), source, "v5", golden.compute(source))
    environment = {
        faulty.FILE_VARIABLE: str(bad.file),
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "tests.support.faulty.middlewares",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    faults = version_app(
        MODEL,
        "v5",
        engine_kwargs={"logits_processors": ["tests.support.faulty:FaultyLogits"]},
        runtime_env={"env_vars": environment},
    )
    shared_endpoint.deploy(["v1", "v2"], more=[faults, controller(url=shared_endpoint.url)])
    shared_endpoint.wait_until_serving(["v1", "v2", "v5"])
    yield shared_endpoint
    shared_endpoint.deploy(["v1", "v2"])


@pytest.fixture
def rolling(serving, tmp_path) -> Rolling:
    return Rolling(serving, tmp_path, MODEL)


@pytest.mark.parametrize(
    ("what", "gate"),
    [
        ("slow", ITL | {"max_ratio": 1.5}),
        ("erring", ERRORS),
        ("babbling", REPETITION),
    ],
)
def test_a_bad_version_is_taken_back_by_itself(serving, rolling, bad, told, what, gate):
    # It is held, so that it is still there when the fault begins.
    steps = [{"weight": 30, "hold": "1h"}, {"weight": 100}]
    # A loop is told from 120 characters on, and a token of the tiny model is one.
    with Load(url=serving.url, model=MODEL, tokens=140 if what == "babbling" else 24, callers=6) as load:
        rollout = rolling.start(
            "v5", *{g["metric"]: g for g in (FEW_ERRORS, ITL, REPETITION, gate)}.values(), steps=steps
        )
        rolling.wait_for_step(rollout, 0)
        wait_for(lambda: load.answered.count("v5") > 60, "answers of the candidate", 120)
        try:
            begun, before = bad.begin(what), load.answered.count("v5")
            row = rolling.wait_for_end(rollout)
            harmed = load.answered.count("v5") - before
        finally:
            bad.end()
    [*_, last] = rolling.decisions(rollout)
    assert (row.phase, row.reason) == ("rolled_back", "gate_failed"), rolling.last_look(rollout)
    conclusion = rolling.last_look(rollout)["conclusion"]
    assert conclusion["gate"].startswith(gate["metric"])
    own = [failure for failure in load.failures if "500" not in failure]
    assert own == []
    assert what == "erring" or load.failures == []
    rolling.require_explained(rollout)
    told.append(
        f"{what}: {(last.at - begun).total_seconds():.1f} s from the fault to the decision, "
        f"{rolling.applied_s(last):.2f} s from there to 0%, {harmed} answers of it; {conclusion['why']}"
    )


WEIGHTS = {"early": 1, "middle": 50, "late": 99}


@pytest.mark.parametrize("when", WEIGHTS)
@pytest.mark.parametrize("there", ["A-B-A", "A-B-A-B", "A-B-A-C"])
def test_there_and_back_under_streams_fails_and_splices_nothing(serving, rolling, told, when, there):
    names = dict(zip("ABC", ("v1", "v2", "v5"), strict=True))
    with Load(url=serving.url, model=MODEL, tokens=8, callers=8, only_streams=True) as load:
        began = time.monotonic()
        for version in there.split("-")[1:]:
            if version == "A":
                serving.linnet("rollout", "rollback", MODEL, "--yes")
                continue
            serving.linnet(
                "rollout", "start", f"{MODEL}:{names[version]}", "--weight", str(WEIGHTS[when]), "--yes"
            )
            wait_for(lambda name=names[version]: name in load.answered[-200:], "an answer of it", 60)
        if there[-1] != "A":
            serving.linnet("rollout", "promote", MODEL, "--yes")
            serving.linnet("rollout", "rollback", MODEL, "--yes")
        took = time.monotonic() - began
    assert load.failures == []
    told.append(
        f"{there} at {WEIGHTS[when]}%: {len(load.answered)} streams, "
        f"{len(load.answered) / took:.0f} a second, 0 failed"
    )

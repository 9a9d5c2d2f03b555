from __future__ import annotations

import pytest

from cluster import closed_loop, extensions
from cluster.config import Settings
from cluster.errors import ConfigError, NotFoundError, UsageError

SEAM = [name for name in vars(closed_loop.ThenRollout) if not name.startswith("_")]


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path, root=str(tmp_path), state_url=f"sqlite:///{tmp_path}/state/linnet.db")


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "canary.yaml"
    path.write_text("steps: [{weight: 100}]\n")
    return path


def test_somebody_provides_what_training_asks_for(settings, policy):
    provided = closed_loop.then_rollout(policy, settings, "30m")
    assert SEAM == ["plan", "carry_out", "wait"]
    assert all(callable(getattr(provided, name)) for name in SEAM)
    assert isinstance(provided, extensions.load(extensions.PROVIDERS, "then_rollout"))


def test_a_policy_or_a_time_that_is_none_is_refused_at_once(settings, policy, tmp_path):
    with pytest.raises(NotFoundError):
        closed_loop.then_rollout(tmp_path / "none.yaml", settings)
    with pytest.raises(UsageError, match="soon"):
        closed_loop.then_rollout(policy, settings, "soon")
    policy.write_text("step: []\n")
    with pytest.raises(ConfigError, match="Did you mean `steps`"):
        closed_loop.then_rollout(policy, settings)

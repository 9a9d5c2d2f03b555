"""What tests of judged rollouts share: the applications, the policies, and what was decided when."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cluster.registry import ModelStore
from cluster.state import looks, tallies
from cluster.state.tables import DecisionRow, RolloutRow
from tests.support.endpoint import Endpoint, wait_for

STEPS: list[dict[str, Any]] = [{"weight": 20}, {"weight": 60}, {"weight": 100}]
ERRORS = {"metric": "error_rate", "max_ratio": 1.5, "tolerate": "0.5%", "min_samples": 30}
FEW_ERRORS = ERRORS | {"tolerate": "10%"}
ITL = {"metric": "itl", "quantile": 0.9, "max_ratio": 2, "min_samples": 20}
REPETITION = {"metric": "repetition_rate", "max_ratio": 2, "tolerate": "5%", "min_samples": 20}
OVER = ("promoted", "rolled_back", "paused")


def controller(**args: Any) -> dict[str, Any]:
    """The application of the controller."""
    return {"name": "rollouts", "import_path": "serve_apps.app:rollouts", "route_prefix": None, "args": args}


@dataclass
class Rolling:
    """Rollouts of one model of an endpoint."""

    endpoint: Endpoint
    directory: Path
    model: str
    started: list[int] = field(default_factory=list)

    @property
    def store(self) -> ModelStore:
        return ModelStore.open(self.endpoint.settings)

    def start(self, candidate: str, *gates: dict[str, Any], steps: Any = STEPS, **more: Any) -> int:
        """By the command, as a person does; returns the rollout's id."""
        policy = self.directory / "policy.yaml"
        policy.write_text(yaml.safe_dump({"steps": steps, "gates": list(gates), **more}))
        done = self.endpoint.linnet(
            "rollout", "start", f"{self.model}:{candidate}", "--policy", str(policy), "--yes"
        )
        assert done["applied"], done
        rollout = int(done["detail"]["rollout"])
        self.started.append(rollout)
        return rollout

    def row(self, rollout: int) -> RolloutRow:
        with self.store.database.snapshot() as session:
            return session.get_one(RolloutRow, rollout)

    def wait_for_step(self, rollout: int, step: int, timeout_s: float = 240) -> None:
        def there() -> bool:
            row = self.row(rollout)
            return row.step >= step or row.phase in OVER

        wait_for(there, f"step {step} of rollout {rollout}", timeout_s)

    def wait_for_end(self, rollout: int, timeout_s: float = 300) -> RolloutRow:
        try:
            wait_for(lambda: self.row(rollout).phase in OVER, f"the end of rollout {rollout}", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.last_look(rollout)}") from None
        return self.row(rollout)

    def last_look(self, rollout: int) -> dict[str, Any]:
        with self.store.database.snapshot() as session:
            row = looks.newest(session, rollout)
            return {} if row is None else row.outcome

    def decisions(self, rollout: int) -> list[DecisionRow]:
        with self.store.database.snapshot() as session:
            rows = session.query(DecisionRow).filter_by(rollout_id=rollout)
            return list(rows.order_by(DecisionRow.seq))

    def applied_s(self, decision: DecisionRow) -> float:
        """Seconds from a decision until the last gateway routed by it."""
        revision = decision.outcome["policy"]["revision"]

        def found() -> list[Any]:
            with self.store.database.snapshot() as session:
                return tallies.of_model(session, self.model, revisions=[revision])

        rows = wait_for(found, f"a gateway at revision {revision}", 20)
        return max((row.applied_at - decision.at).total_seconds() for row in rows)

    def require_explained(self, rollout: int) -> int:
        """Every decision is reproduced from what was stored; returns how many looks led to them."""
        count = 0
        for decision in self.decisions(rollout):
            count = max(count, self.endpoint.linnet("rollout", "explain", str(decision.id))["looks"])
        return count


def version_app(model: str, label: str, *, user_config: Any = None, **args: Any) -> dict[str, Any]:
    engine = {"max_model_len": 256, "max_num_seqs": 16, "enforce_eager": True} | args.pop("engine_kwargs", {})
    deployment = {"name": f"{model}-{label}", "num_replicas": 1}
    return {
        "name": f"{model}-{label}",
        "import_path": "serve_apps.app:version",
        "route_prefix": f"/_versions/{model}/{label}",
        "args": {"version": f"{model}:{label}", "engine_kwargs": engine, **args},
        "deployments": [deployment | ({"user_config": user_config} if user_config else {})],
    }

"""A served tiny model for tests: published versions, `serve deploy`, and waiting on conditions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.config import Settings
from cluster.manifest import Golden, VersionKind
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from cluster.runtime import ClusterInfo
from cluster.state import replicas
from tests.support.tiny_model import make_tiny_model
from train_jobs import golden

MODEL = "tiny"
BIN = Path(sys.executable).parent
SERVING_TIMEOUT_S = 300.0


def publish_tiny_versions(
    settings: Settings, scratch: Path, labels: Sequence[str], *, model: str = MODEL
) -> None:
    """Publish random models, each with other weights and with golden answers of its own."""
    store = ModelStore.open(settings)
    for seed, label in enumerate(labels, start=1):
        source = make_tiny_model(scratch / label, seed=seed)
        publish(store, source, label, golden.compute(source), model=model)


def publish(
    store: ModelStore, source: Path, label: str, answers: Golden | None, *, model: str = MODEL
) -> None:
    store.publish(
        source,
        VersionRef(model=model, version=label),
        kind=VersionKind.BASE,
        source_label="tests",
        golden=answers,
    )


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    """Poll until `condition` returns something true; fail by name after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what}")


class Endpoint:
    """Drives one Serve instance by Ray's own command."""

    def __init__(self, info: ClusterInfo, settings: Settings, directory: Path) -> None:
        self.info = info
        self.settings = settings
        self.url = info.serve_url
        self._file = directory / "endpoint.yaml"

    @property
    def environment(self) -> dict[str, str]:
        """For child processes: this cluster and this home."""
        return {
            **os.environ,
            **self.info.environment,
            "LINNET_HOME": str(self.settings.home),
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }

    def command(self, *arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment's bin directory."""
        return subprocess.run(
            [str(BIN / arguments[0]), *arguments[1:]],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def linnet(self, *arguments: str) -> dict[str, Any]:
        """Run `linnet … --json` and return its object; the command must succeed."""
        done = self.command("linnet", *arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def deploy(
        self,
        labels: Sequence[str],
        *,
        replicas: Mapping[str, int | dict[str, Any]] | None = None,
        gateway: Mapping[str, Any] | None = None,
        gateways: int = 1,
        user_config: Mapping[str, Any] | None = None,
        args: Mapping[str, Mapping[str, Any]] | None = None,
        more: Sequence[Mapping[str, Any]] = (),
        **engine_kwargs: dict[str, Any],
    ) -> None:
        """`serve deploy` a YAML with the gateway, these versions and `more` applications.

        `v3={…}` sets its engine_kwargs; a version has one replica unless `replicas` says another
        number, or how it scales; `args` adds to a version's args, and such a version has as many replicas
        as those say; `gateway` adds to the gateway's args, `user_config` is that of its
        deployment; `gateways` is how many run.
        """
        counts, further = replicas or {}, args or {}
        port = int(self.url.rsplit(":", 1)[1])
        applications = [
            {
                "name": "gateway",
                "import_path": "serve_apps.app:gateway",
                "route_prefix": "/",
                "args": {"models": [MODEL], "replica_wait_s": 20, **(gateway or {})},
                "deployments": [
                    {
                        "name": "gateway",
                        "num_replicas": gateways,
                        **({"user_config": user_config} if user_config else {}),
                    }
                ],
            },
            *(
                self._version(
                    label, engine_kwargs.get(label, {}), counts.get(label, 1), further.get(label, {})
                )
                for label in labels
            ),
            *more,
        ]
        document = {
            "proxy_location": "EveryNode",
            "http_options": {"host": "127.0.0.1", "port": port},
            "applications": applications,
        }
        self._file.write_text(yaml.safe_dump(document, sort_keys=False))
        done = self.command("serve", "deploy", str(self._file))
        assert done.returncode == 0, done.stdout + done.stderr

    def _version(
        self,
        label: str,
        engine_kwargs: dict[str, Any],
        replicas: int | dict[str, Any],
        args: Mapping[str, Any],
    ) -> dict[str, Any]:
        # Not in `args`: Serve starts every replica anew when those change.
        scale = {"num_replicas": replicas} if isinstance(replicas, int) else {"autoscaling_config": replicas}
        return {
            "name": f"{MODEL}-{label}",
            "import_path": "serve_apps.app:version",
            "route_prefix": f"/_versions/{MODEL}/{label}",
            "args": {
                "version": f"{MODEL}:{label}",
                "engine_kwargs": {
                    "max_model_len": 256,
                    "max_num_seqs": 16,
                    "enforce_eager": True,
                    **engine_kwargs,
                },
                **args,
            },
            **({} if args else {"deployments": [{"name": f"{MODEL}-{label}", **scale}]}),
        }

    def applications(self) -> dict[str, Any]:
        """`serve status`, parsed."""
        done = self.command("serve", "status")
        return yaml.safe_load(done.stdout)["applications"] if done.returncode == 0 else {}

    def serving(self) -> list[str]:
        """Versions with a replica that has proven itself."""
        return sorted({version for version, _ in self.serving_replicas()})

    def serving_replicas(self) -> set[tuple[str, str]]:
        """Version and id of each replica that has proven itself."""
        with ModelStore.open(self.settings).database.snapshot() as session:
            return {
                (row.version, row.replica) for row in replicas.live(session, MODEL) if row.status == "serving"
            }

    def wait_until_serving(self, labels: Sequence[str]) -> None:
        """Until every version serves and the gateway is ready."""

        def ready() -> bool:
            if not set(labels) <= set(self.serving()):
                return False
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                    return answer.status == 200
            except (urllib.error.URLError, OSError):
                return False

        try:
            wait_for(ready, f"{labels} serving", SERVING_TIMEOUT_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {json.dumps(self.applications(), indent=1)[-4000:]}") from None

"""Runs of the tiny model on a cluster of hosts: submitted as jobs, watched through their shared directory."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config import Settings
from cluster.manifest import VersionKind
from cluster.recovery.classes import FailureClass
from cluster.recovery.receipts import Receipt
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from cluster.storage import Storage
from tests.chaos.checking import proven, same_steps
from tests.chaos.reference import uninterrupted
from tests.chaos.stage import Stage
from tests.hosts import cluster
from tests.hosts.host import Host
from tests.hosts.network import Network
from tests.support.tiny_model import make_tiny_model
from train_jobs.run_files import RunFiles, WorkerRecord
from train_jobs.spec import DataSpec, FailuresSpec, PeftSpec, TrainSpec

# `--log-cli-level=info` shows how long each part took, in seconds.
TIMES = logging.getLogger(__name__)
WORKERS = ("worker1", "worker2", "worker3")
SHARED = "/mnt/linnet"
QUESTIONS = "questions.jsonl"
# Ray gives up on a host that is silent after half a minute and more.
DEADLINE_S = 180.0
WORKER_PROCESS = "RayTrainWorker"


@dataclass(frozen=True)
class Site:
    """A cluster of a head and three workers, of two CPUs each, with the tiny model in its store."""

    network: Network
    running: cluster.RayCluster
    settings: Settings

    @classmethod
    @contextmanager
    def up(cls, *, disk_mebibytes: int = 0) -> Iterator[Site]:
        """`ray up` of cluster.yaml, all hosts awaited."""
        names = ["desk", "head", *WORKERS]
        with (
            Network.create(names, disk_mebibytes=disk_mebibytes) as network,
            cluster.up(network, desk="desk", head="head", workers=WORKERS) as running,
        ):
            settings = _settings(network)
            _publish(settings)
            _write_questions(network.shared / QUESTIONS)
            running.wait_for_nodes(1 + len(WORKERS))
            yield cls(network, running, settings)

    def host_at(self, address: str) -> Host:
        """The host with this address."""
        return next(host for host in self.network.hosts.values() if host.address == address)

    @contextmanager
    def submit(self, spec: TrainSpec, *, root: str = SHARED) -> Iterator[Run]:
        """`ray job submit` of `linnet train run` on the head; at the end of the block the job is over."""
        (self.network.shared / f"{spec.run}.yaml").write_text(spec.to_yaml())
        log = self.network.shared / f"{spec.run}.log"
        command = f"linnet train run {SHARED}/{spec.run}.yaml --root {root} --yes --json"
        with log.open("w") as out:
            job = self.running.head.start(
                f". ~/linnet.env && cd ~/linnet && ray job submit --submission-id {spec.run} -- {command}",
                stdout=out,
            )
            files = RunFiles(Storage(self.settings.root), spec.run)
            run = Run(self, spec, Stage(files, os.getpid(), DEADLINE_S), job, log)
            try:
                yield run
            finally:
                if job.poll() is None:
                    self.running.on_head(f"ray job stop {spec.run}")
                    job.wait(timeout=60)


@dataclass(frozen=True)
class Run:
    """One run on a site. `job` ends with it; `log` has what it printed."""

    site: Site
    spec: TrainSpec
    stage: Stage
    job: subprocess.Popen[str]
    log: Path

    def reach(self, step: int) -> None:
        """Wait for a step."""
        self.stage.until(lambda: self.stage.step >= step or self._has_ended(), f"step {step}")
        assert self.stage.step >= step, self.log.read_text()

    def advance(self, steps: int) -> None:
        """Wait for so many more steps."""
        self.reach(self.stage.step + steps)

    def finish(self) -> dict[str, Any]:
        """Wait for the end; what `--json` told. AssertionError, with the log, unless it ended well."""
        assert self.job.wait(timeout=DEADLINE_S) == 0, self.log.read_text()
        (line,) = re.findall(r'^\{"target".*\}$', self.log.read_text(), re.MULTILINE)
        told: dict[str, Any] = json.loads(line)
        return told

    def trainers(self) -> list[tuple[Host, WorkerRecord]]:
        """Hosts, the head excepted, on which the newest attempt trains, with what it says of its worker."""
        found = [(self.site.host_at(w.node_ip), w) for w in self.stage.attempts()[-1].workers]
        return [(host, worker) for host, worker in found if host.name in WORKERS]

    def failures(self) -> list[Receipt]:
        """Losses as of a run that nothing happened to, an audit without a finding; the receipts.

        Without those of slow ranks: hosts that share two cores are slow now and then.
        """
        data = self.spec.data.model_copy(update={"train": str(self.site.network.shared / QUESTIONS)})
        calm = uninterrupted(self.spec.model_copy(update={"data": data}), self.site.settings)
        same_steps(self.stage, calm, exactly=True)
        proven(self.stage, self.site.settings)
        receipts = self.stage.receipts()
        TIMES.info("%s", [(r.failure_class, r.victim, r.detail, round(r.total_s, 1)) for r in receipts])
        return [r for r in receipts if r.failure_class is not FailureClass.SLOW_RANK]

    def _has_ended(self) -> bool:
        return self.job.poll() is not None


def spec_of(run: str, **changes: Any) -> TrainSpec:
    """A worker of two CPUs takes a host to itself, so that three of them train on three hosts."""
    spec = TrainSpec(
        run=run,
        model="tiny:v1",
        data=DataSpec(train=f"{SHARED}/{QUESTIONS}"),
        max_steps=100,
        learning_rate=1e-3,
        per_device_train_batch_size=4,
        num_workers=3,
        threads_per_worker=2,
        save_steps=10,
        peft=PeftSpec(r=4, lora_dropout=0.1),
        failures=FailuresSpec(max_failures=-1),
    )
    return spec.model_copy(update=changes)


def _settings(network: Network) -> Settings:
    state = f"sqlite:///{network.shared}/state/linnet.db"
    return Settings(home=network.shared / "home", root=str(network.shared), state_url=state)


def _publish(settings: Settings) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        ModelStore.open(settings).publish(
            make_tiny_model(Path(scratch) / "tiny"),
            VersionRef(model="tiny", version="v1"),
            kind=VersionKind.BASE,
            source_label="tests",
        )


def _write_questions(path: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Is {number} even?{' Really?' * (number % 5)}"},
                {"role": "assistant", "content": "no" if number % 2 else "yes"},
            ]
        }
        for number in range(64)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))

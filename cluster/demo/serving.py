"""Steps that deploy: the base alone with a client calling it, the tuned version beside it."""

from __future__ import annotations

import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import yaml

from cluster.demo import interruptions
from cluster.demo.client import MODEL, BackgroundClient, Question, ask_all
from cluster.demo.commands import CHECKOUT
from cluster.demo.endpoint_file import application_name, endpoint_yaml
from cluster.demo.state import Demo
from cluster.demo.waiting import until
from cluster.errors import GateFailedError, LinnetError, TimedOutError
from cluster.storage import Storage
from cluster.traffic import TrafficPolicy

TEMPLATE = CHECKOUT / "serve_apps" / "smollm2.yaml"
CALLERS, CALLER_KEYS = 2, 300
_SERVE_DEADLINE_S, _READY_DEADLINE_S = 300.0, 60.0
_PROBE_PERIOD_S, _LOOK_PERIOD_S = 0.5, 10.0


def deploy_base(demo: Demo) -> None:
    """The base alone takes all traffic, whatever an earlier demo left as @stable."""
    _deploy(demo, [demo.base])
    if demo.rollout_active:
        demo.commands.linnet("rollout", "rollback", MODEL, "--force", "--yes")
    if demo.stable != demo.base:
        demo.commands.linnet("rollout", "start", f"{MODEL}:{demo.base}", "--weight", "100", "--yes")
        demo.commands.linnet("rollout", "promote", MODEL, "--yes")
    until(
        lambda: is_ready(demo.serve_url),
        f"{demo.serve_url}/readyz answering 200",
        deadline_s=_READY_DEADLINE_S,
        hint=f"`linnet serve status {MODEL}` and `linnet rollout status {MODEL}` tell why.",
    )
    demo.policy = TrafficPolicy(model=MODEL, revision=0, stable=demo.base)
    demo.teller.say(f"{demo.serve_url}/readyz answers 200")


def start_client(demo: Demo) -> None:
    """From here to the end, calls never stop."""
    keys = [f"caller-{secrets.token_hex(6)}" for _ in range(CALLER_KEYS)]
    demo.client = BackgroundClient(demo.serve_url, keys, callers=CALLERS)
    client = demo.client
    client.start()
    until(
        lambda: len(client.answers) >= 2 * CALLERS,
        f"the first {2 * CALLERS} answers",
        deadline_s=_READY_DEADLINE_S,
        hint=f"`linnet serve status {MODEL}` shows the replicas.",
    )
    demo.teller.say(f"{CALLERS} callers with {CALLER_KEYS} keys call from now on, half of them streaming")


def deploy_tuned(demo: Demo) -> None:
    """Add the tuned version; the base keeps all traffic."""
    _deploy(demo, [demo.base, demo.tuned])


def is_ready(serve_url: str) -> bool:
    """Whether the gateway's /readyz answers 200."""
    try:
        with urllib.request.urlopen(f"{serve_url}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def refusal(rows: Sequence[Mapping[str, Any]], label: str, since: float) -> str:
    """Why a replica of `label` was refused after `since`, from `linnet serve status`; else empty."""
    for row in rows:
        seen = datetime.fromisoformat(row["seen"]).replace(tzinfo=UTC).timestamp()
        if (row["model"], row["version"]) == (MODEL, label) and row["status"] == "refused" and seen >= since:
            return str(row["detail"]) or "it gave no reason"
    return ""


def deploy_failure(status: str, application: str) -> str:
    """Serve's message when an application failed to deploy, from `serve status`; else empty."""
    tree = yaml.safe_load(status) or {}
    found = (tree.get("applications") or {}).get(application) or {}
    if found.get("status") != "DEPLOY_FAILED":
        return ""
    lines = [line.strip() for line in str(found.get("message", "")).splitlines() if line.strip()]
    return lines[-1] if lines else "Serve gives no reason"


def _deploy(demo: Demo, labels: Sequence[str]) -> None:
    file = demo.directory / "endpoint.yaml"
    text = endpoint_yaml(TEMPLATE, MODEL, labels)
    Storage(str(demo.directory)).write_atomic(file.name, text.encode())
    since = time.time()
    demo.commands.ray_serve("deploy", str(file))
    _wait_until_serving(demo, labels[-1], since)
    rows = demo.commands.linnet("serve", "status", MODEL)["data"]
    for row in rows:
        if row["status"] == "serving":
            demo.teller.say(f"{MODEL}:{row['version']} serves: {row['detail']}")


def _wait_until_serving(demo: Demo, label: str, since: float) -> None:
    """Ask the version itself until it answers, looking now and then for a reason why it will not."""
    question = Question(f"probe-{secrets.token_hex(6)}", "Hello", max_tokens=1, pin=label)
    looked = time.monotonic()
    with demo.teller.moving(f"{MODEL}:{label} is being loaded and proven") as move:
        while True:
            answer = interruptions.run(ask_all(demo.serve_url, [question], 1))[0]
            if not answer.error:
                return
            waited = time.time() - since
            move(f"{MODEL}:{label} is being loaded and proven, {waited:.0f} s")
            if time.monotonic() - looked > _LOOK_PERIOD_S:
                _require_no_refusal(demo, label, since)
                looked = time.monotonic()
            if waited > _SERVE_DEADLINE_S:
                raise TimedOutError(
                    f"{MODEL}:{label} did not serve within {_SERVE_DEADLINE_S:g} s; last: {answer.error}.",
                    code="demo.not_serving",
                    hint=f"`serve status` and `linnet serve status {MODEL}` tell how far it came.",
                )
            time.sleep(_PROBE_PERIOD_S)


def _require_no_refusal(demo: Demo, label: str, since: float) -> None:
    if why := refusal(demo.commands.look_linnet("serve", "status")["data"], label, since):
        raise GateFailedError(
            f"{MODEL}:{label} was refused: {why}",
            code="demo.refused",
            hint=f"`linnet models verify {MODEL}:{label}` checks its files.",
        )
    if why := deploy_failure(demo.commands.look("serve", "status"), application_name(MODEL, label)):
        raise LinnetError(
            f"Serve could not deploy {MODEL}:{label}: {why}",
            code="demo.deploy_failed",
            hint=f"The logs are below {demo.settings.home / 'logs'}.",
        )

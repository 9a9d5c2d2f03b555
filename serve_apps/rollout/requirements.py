"""Checks that must hold before a version is given traffic by hand."""

from __future__ import annotations

from cluster.errors import GateFailedError, UsageError
from serve_apps.rollout.states import Situation


def require_other(situation: Situation, stable: str, candidate: str) -> None:
    """Raise UsageError for a candidate that is the stable version."""
    if candidate == stable:
        raise UsageError(
            f"`{situation.model}:{candidate}` is the stable version; a candidate must be another one.",
            code="rollout.candidate_is_stable",
            hint=f"`linnet models show {situation.model}` lists the versions.",
        )


def require_answering(situation: Situation, version: str) -> None:
    """Raise GateFailedError unless `version`, which has had traffic before, serves or sleeps."""
    if not situation.answers(version):
        require_serving(situation, version)


def require_serving(situation: Situation, version: str) -> None:
    """Raise GateFailedError unless a replica of `version` serves, and so has proven itself."""
    if situation.serving(version):
        return
    if situation.answers(version):
        raise GateFailedError(
            f"`{situation.model}:{version}` sleeps: no replica of it serves now, and so none is proven.",
            code="gate.no_replica",
            hint=f"Ask it once, with the header `x-linnet-version: {version}`, and repeat the command.",
        )
    raise GateFailedError(
        f"`{situation.model}:{version}` has no serving replica, so it cannot take traffic."
        f"{_what_there_is(situation, version)}",
        code="gate.no_replica",
        hint=f"Add {version} to the endpoint's YAML and `serve deploy` it; "
        f"`linnet serve status {situation.model}` shows its replicas.",
    )


def require_landing(situation: Situation, *, source: str, target: str) -> None:
    """Raise GateFailedError where going back would move callers from a live version to none."""
    if can_land(situation, source=source, target=target):
        return
    raise GateFailedError(
        f"`{situation.model}:{target}` has no serving replica, while {source} serves: "
        f"going back now would fail every request.{_what_there_is(situation, target)}",
        code="gate.no_replica",
        hint=f"`serve deploy` a YAML that holds {target}, or add --force to move the traffic anyway.",
    )


def can_land(situation: Situation, *, source: str, target: str) -> bool:
    """Whether callers may be moved without losing an answer.

    With neither version serving nothing can be lost, and the weights may move: after a
    restart of everything, a rollback waits for no model to be loaded.
    """
    return situation.answers(target) or not situation.answers(source)


def require_same_prompting(situation: Situation, stable: str, candidate: str) -> None:
    """Raise GateFailedError when the two versions read prompts differently."""
    ours, theirs = situation.prompting[stable], situation.prompting[candidate]
    for what, stable_sha256, candidate_sha256 in (
        ("tokenizer", ours.tokenizer_sha256, theirs.tokenizer_sha256),
        ("chat template", ours.chat_template_sha256, theirs.chat_template_sha256),
    ):
        if stable_sha256 != candidate_sha256:
            raise GateFailedError(
                f"`{situation.model}:{candidate}` has another {what} ({_short(candidate_sha256)}) than the "
                f"stable {stable} ({_short(stable_sha256)}): the two would read the same prompt differently.",
                code="gate.tokenizer_change",
                hint="If that is meant, add --allow-tokenizer-change.",
            )


def _short(digest: str | None) -> str:
    return f"sha256 {digest[:12]}…" if digest else "none"


def _what_there_is(situation: Situation, version: str) -> str:
    starting = ", ".join(f"{n} {status}" for status, n in sorted(situation.replicas.get(version, {}).items()))
    reason = situation.refusals.get(version)
    on_the_way = f" On the way: {starting}." if starting else ""
    return f"{on_the_way} Its last replica was refused: {reason}" if reason else on_the_way

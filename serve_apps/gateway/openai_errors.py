"""Refusals in OpenAI's error envelope, so that its client raises the proper classes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from cluster.errors import did_you_mean, one_of

_REQUEST = "invalid_request_error"
_SERVER = "server_error"
_RATE = "rate_limit_error"
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that the gateway gives itself; what follows `param` becomes headers."""

    status: int
    message: str
    type: str
    code: str
    param: str | None = None
    retry_after_s: float | None = None
    allow: str | None = None
    www_authenticate: str | None = None

    def body(self) -> bytes:
        """The envelope `{"error": {"message", "type", "param", "code"}}`."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()

    def event(self) -> bytes:
        """The envelope as the last server-sent event of a stream."""
        return b"data: " + self.body() + b"\n\n"

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Content type, and the headers that belong to this status."""
        found = [(b"content-type", b"application/json")]
        if self.retry_after_s is not None:
            found.append((b"retry-after", str(max(1, math.ceil(self.retry_after_s))).encode()))
        if self.allow is not None:
            found.append((b"allow", self.allow.encode()))
        if self.www_authenticate is not None:
            found.append((b"www-authenticate", self.www_authenticate.encode()))
        return found


def no_such_route(method: str, path: str, routes: Iterable[str]) -> Refusal:
    """404 for a path that is not served."""
    message = f"Invalid URL ({method} {_short(path)}).{did_you_mean(path, routes)} Served: {one_of(routes)}."
    return Refusal(404, message, _REQUEST, "unknown_url")


def unsupported_route(model: str, version: str, path: str) -> Refusal:
    """404 for a path that the model of this version has no use for."""
    message = f"{model}:{version} does not answer {path}; it is another kind of model."
    return Refusal(404, message, _REQUEST, "unsupported_route", "model")


def method_not_allowed(method: str, path: str, allowed: str) -> Refusal:
    """405 for a path that takes another method."""
    message = f"{path} takes {allowed}, not {method}."
    return Refusal(405, message, _REQUEST, "method_not_allowed", allow=allowed)


def not_json(reason: str) -> Refusal:
    """400 for a body that does not parse."""
    return Refusal(400, f"The body is not valid JSON: {reason}.", _REQUEST, "invalid_json")


def wrong_type(reason: str, param: str | None) -> Refusal:
    """400 for a field of the wrong type."""
    return Refusal(400, f"The body does not fit: {reason}.", _REQUEST, "invalid_type", param)


def missing_model(served: Iterable[str]) -> Refusal:
    """400 for a request that names no model where several are served."""
    message = f"You must give a model. Served: {one_of(served)}."
    return Refusal(400, message, _REQUEST, "missing_required_parameter", "model")


def contradiction(model: str, pin: str) -> Refusal:
    """400 for a pin header that differs from the version in the body."""
    message = f"The body asks for `{_short(model)}`, the header x-linnet-version for `{_short(pin)}`."
    return Refusal(400, message, _REQUEST, "version_conflict", "model")


def body_too_large(limit: int) -> Refusal:
    """413 for a body above the limit in bytes."""
    message = f"The body is larger than {limit} bytes."
    return Refusal(413, message, _REQUEST, "request_too_large")


def body_too_slow(limit_s: float) -> Refusal:
    """408 for a body that was not there in time."""
    message = f"The body was not complete within {limit_s:g} s."
    return Refusal(408, message, _REQUEST, "request_too_slow")


def unknown_model(model: str, served: Iterable[str]) -> Refusal:
    """404 for a model, or `model:version`, that is not served."""
    near = did_you_mean(model, served) if len(model) <= _SHOWN else ""
    message = f"The model `{_short(model)}` does not exist.{near} Served: {one_of(served)}."
    return Refusal(404, message, _REQUEST, "model_not_found", "model")


def unknown_version(model: str, version: str, versions: Iterable[str]) -> Refusal:
    """404 for a pin header that names a version which is not served."""
    near = did_you_mean(version, versions) if len(version) <= _SHOWN else ""
    message = f"`{model}` has no version `{_short(version)}`.{near} Served: {one_of(versions)}."
    return Refusal(404, message, _REQUEST, "version_not_found", "x-linnet-version")


def unknown_task(model: str, task: str, tasks: Iterable[str]) -> Refusal:
    """404 for a task that the model does not have; `tasks` are written `model/task`."""
    name = f"{model}/{task}"
    near = did_you_mean(name, tasks) if len(name) <= _SHOWN else ""
    message = f"The model `{model}` has no task `{_short(task)}`.{near} Its tasks: {one_of(tasks)}."
    return Refusal(404, message, _REQUEST, "model_not_found", "model")


def task_needs_chat(task: str, path: str, chat: str) -> Refusal:
    """400 for a task on another route."""
    message = f"`{task}` is a task, and tasks chat: {chat} answers it, {path} does not."
    return Refusal(400, message, _REQUEST, "task_needs_chat", "model")


def task_has_prompt(task: str, model: str, role: str, roles: Iterable[str]) -> Refusal:
    """400 for a message that would stand beside the task's own prompt."""
    message = (
        f"`{task}` has a system prompt of its own, so a message may be from {one_of(roles)}, "
        f"not from `{_short(role)}`. With a prompt of yours, ask `{model}`."
    )
    return Refusal(400, message, _REQUEST, "task_has_prompt", "messages")


def task_sets(task: str, param: str, what: str) -> Refusal:
    """400 for a parameter that the task does not leave to its callers."""
    message = f"The task `{task}` {_short(what)}; leave out `{param}`."
    return Refusal(400, message, _REQUEST, "task_sets_parameter", param)


def task_output(task: str, form: str, finish_reason: str) -> Refusal:
    """502 for an answer that has not the form of its task's output."""
    message = (
        f"An answer of `{task}` is {_short(form)}; this one was not "
        f"(finish_reason: {finish_reason or 'none'})."
    )
    return Refusal(502, message, _SERVER, "task_output")


def missing_messages() -> Refusal:
    """400 for a task's request without a message."""
    return Refusal(400, "You must give messages.", _REQUEST, "missing_required_parameter", "messages")


def no_api_key() -> Refusal:
    """401 for a request without a key, where one is needed."""
    message = "This endpoint needs an API key, in one header `Authorization: Bearer sk-linnet-…`."
    return Refusal(401, message, _REQUEST, "invalid_api_key", www_authenticate="Bearer")


def invalid_api_key() -> Refusal:
    """401 for a key that does not hold; which of the three it is, is nobody's business."""
    message = "The API key is unknown, revoked or expired."
    return Refusal(401, message, _REQUEST, "invalid_api_key", www_authenticate="Bearer")


def keys_unknown() -> Refusal:
    """503 while the keys have not been read from the state database."""
    message = "The API keys are not known yet."
    return Refusal(503, message, _SERVER, "keys_unknown", retry_after_s=1.0)


def model_not_allowed(allowed: Iterable[str]) -> Refusal:
    """403 for a model that the key does not name; it does not tell whether there is such a model."""
    message = f"The API key may not use this model. It may use: {one_of(allowed)}."
    return Refusal(403, message, _REQUEST, "model_not_allowed", "model")


def admin_required() -> Refusal:
    """403 for an admin path."""
    return Refusal(403, "This path needs an API key with admin rights.", _REQUEST, "admin_required")


def rate_limited(what: str, per_minute: int, wait_s: float) -> Refusal:
    """429 for a key that has used up its requests or tokens."""
    message = f"The API key's limit of {per_minute} {what} a minute is reached."
    return Refusal(429, message, _RATE, "rate_limit_exceeded", retry_after_s=wait_s)


def too_many_at_once(limit: int, wait_s: float) -> Refusal:
    """429 for a key that has as many requests under way as it may have."""
    message = f"The API key's limit of {limit} requests at a time is reached."
    return Refusal(429, message, _RATE, "rate_limit_exceeded", retry_after_s=wait_s)


def overloaded(model: str, version: str) -> Refusal:
    """429 when the replicas have all that they can take and the line is full, or the wait too long."""
    message = f"{model}:{version} has more requests than it can answer now."
    return Refusal(429, message, _RATE, "overloaded", retry_after_s=1.0)


def no_policy(model: str) -> Refusal:
    """503 while it is not known which version is stable."""
    message = f"No version of `{model}` is stable yet."
    return Refusal(503, message, _SERVER, "no_stable_version", retry_after_s=1.0)


UNHEARD = "nothing was heard from the cluster yet"


def not_ready(reasons: Iterable[str]) -> Refusal:
    """503 of `/readyz`, and of what needs to have heard from the cluster."""
    return Refusal(503, f"Not ready: {'; '.join(reasons)}.", _SERVER, "not_ready", retry_after_s=1.0)


def no_replica(model: str, version: str) -> Refusal:
    """503 when no replica of the version took the request in time."""
    message = f"No replica of {model}:{version} can take the request now."
    return Refusal(503, message, _SERVER, "no_replica", retry_after_s=1.0)


def upstream_failed(model: str, version: str, attempts: int) -> Refusal:
    """503 when every attempt ended before its first byte."""
    message = f"{attempts} replicas of {model}:{version} failed before they answered."
    return Refusal(503, message, _SERVER, "upstream_failed", retry_after_s=1.0)


def upstream_timeout(model: str, version: str, limit_s: float) -> Refusal:
    """504 when the answer was not complete in time."""
    message = f"{model}:{version} did not answer within {limit_s:g} s."
    return Refusal(504, message, "timeout_error", "upstream_timeout")


def upstream_error(status: int, text: str, retry_after_s: float | None) -> Refusal:
    """A replica's error that is not in an envelope of its own."""
    kind = _REQUEST if status < 500 else _SERVER
    message = _short(text) or f"The replica answered {status}."
    return Refusal(status, message, kind, "upstream_error", retry_after_s=retry_after_s)


def stream_broken(model: str, version: str) -> Refusal:
    """The last event of a stream whose replica went away."""
    message = f"The replica of {model}:{version} failed while it was answering; the answer is incomplete."
    return Refusal(502, message, _SERVER, "stream_broken")


def internal() -> Refusal:
    """500 for a fault of the gateway itself; the log has the traceback."""
    return Refusal(500, "The gateway failed on this request.", _SERVER, "internal_error")


REASONS = {
    "invalid_api_key": "unauthenticated",
    "model_not_allowed": "forbidden",
    "admin_required": "forbidden",
    "rate_limit_exceeded": "rate_limited",
    "overloaded": "overloaded",
}
"""Codes of refusals that are counted by themselves, with the label that they are counted under."""


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"

"""The body of a task's request, as its replica gets it: a pure function of what the caller sent.

Only the top level is taken apart. Each value that the task leaves alone stays byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from serve_apps.gateway import openai_errors
from serve_apps.gateway.openai_errors import Refusal
from serve_apps.gateway.task_spec import Task
from serve_apps.gateway.tasks import ModelTask

FIXED: dict[str, msgspec.json.Decoder[Any]] = {
    "temperature": msgspec.json.Decoder(float),
    "top_p": msgspec.json.Decoder(float),
    "seed": msgspec.json.Decoder(int),
    "stop": msgspec.json.Decoder(tuple[str, ...]),
}
"""Parameters that hold for every request where a task sets them; a caller may repeat the same value."""

MAXIMA = ("max_tokens", "max_completion_tokens")
"""What a caller may lower: vLLM takes the second where both are given."""

CLOSED_BY_PROMPT = ("chat_template", "documents", "echo", "truncate_prompt_tokens")
"""Parameters that would change the prompt beside the caller's own messages, or cut the task's."""

CLOSED_BY_OUTPUT = (
    *("response_format", "structured_outputs", "tools", "tool_choice", "stop", "stop_token_ids"),
    *("min_tokens", "ignore_eos", "allowed_token_ids", "bad_words", "logit_bias"),
)
"""Parameters that could give an answer another form than the task's output."""

ROLES = ("user", "assistant", "tool")
"""Whose messages a caller may send."""

Fields = dict[str, msgspec.Raw]


class _Message(msgspec.Struct):
    role: str


_fields = msgspec.json.Decoder(Fields)
_messages = msgspec.json.Decoder(list[msgspec.Raw])
_message = msgspec.json.Decoder(_Message)
_count = msgspec.json.Decoder(int)


def rewrite(body: bytes, task: ModelTask) -> bytes | Refusal:
    """The base model, the task's prompt first, its parameters and its output; or why not."""
    try:
        fields = _fields.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return openai_errors.not_json(str(error))
    given = {name: raw for name, raw in fields.items() if bytes(raw) != b"null"}
    fixed = _fixed(task.spec)
    if (refusal := _conflict(given, fixed, task)) is not None:
        return refusal
    messages, maxima = _with_prompt(given, task), _capped(given, task.spec)
    if isinstance(messages, Refusal):
        return messages
    if isinstance(maxima, Refusal):
        return maxima
    if task.rule is not None:
        fixed["structured_outputs"] = task.rule.structured_outputs()
    return msgspec.json.encode(fields | {"model": task.model, "messages": messages} | maxima | fixed)


def _fixed(spec: Task) -> dict[str, Any]:
    return {name: value for name in FIXED if (value := getattr(spec, name)) is not None}


def _conflict(given: Fields, fixed: Mapping[str, Any], task: ModelTask) -> Refusal | None:
    for name, raw in given.items():
        if name in fixed:
            if not _is(name, raw, fixed[name]):
                value = msgspec.json.encode(fixed[name]).decode()
                return openai_errors.task_sets(str(task), name, f"sets `{name}` to {value}")
        elif name in CLOSED_BY_PROMPT:
            return openai_errors.task_sets(str(task), name, "sets the prompt")
        elif name in CLOSED_BY_OUTPUT and task.rule is not None:
            return openai_errors.task_sets(str(task), name, f"answers with {task.rule}")
    return None


def _is(name: str, raw: msgspec.Raw, value: Any) -> bool:
    try:
        return bool(FIXED[name].decode(raw) == value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def _with_prompt(given: Fields, task: ModelTask) -> list[Any] | Refusal:
    if "messages" not in given:
        return openai_errors.missing_messages()
    try:
        messages = _messages.decode(given["messages"])
        roles = [_message.decode(raw).role for raw in messages]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return openai_errors.wrong_type(f"messages: {error}", "messages")
    if not messages:
        return openai_errors.missing_messages()
    if (other := next((role for role in roles if role not in ROLES), None)) is not None:
        return openai_errors.task_has_prompt(str(task), task.model, other, ROLES)
    return [{"role": "system", "content": task.spec.system}, *messages]


def _capped(given: Fields, spec: Task) -> dict[str, int] | Refusal:
    if spec.max_tokens is None:
        return {}
    maxima: dict[str, int] = {}
    for name in MAXIMA:
        if name in given:
            try:
                maxima[name] = min(_count.decode(given[name]), spec.max_tokens)
            except msgspec.DecodeError as error:
                return openai_errors.wrong_type(f"{name}: {error}", name)
    return maxima or {"max_tokens": spec.max_tokens}

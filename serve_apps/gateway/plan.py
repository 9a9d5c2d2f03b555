"""What becomes of a request: which version answers it, what the replica gets, and for which task."""

from __future__ import annotations

from dataclasses import dataclass

from serve_apps.gateway import openai_errors, task_body
from serve_apps.gateway.names import ModelName
from serve_apps.gateway.openai_errors import Refusal
from serve_apps.gateway.routes import CHAT
from serve_apps.gateway.selection import Ask, Choice
from serve_apps.gateway.tasks import ModelTask, TaskTable


@dataclass(frozen=True, slots=True)
class Plan:
    """`body` is the caller's own, byte for byte, unless there is a task."""

    choice: Choice
    body: bytes
    task: ModelTask | None = None


def make_plan(ask: Ask, choice: Choice, route: str, body: bytes, tasks: TaskTable) -> Plan | Refusal:
    """Follow the task that the request names, if any; the version has been chosen before."""
    name = ModelName.parse(ask.model).task if ask.model is not None else None
    if name is None:
        return Plan(choice, body)
    task = tasks.find(choice.model, name)
    if isinstance(task, Refusal):
        return task
    if route != CHAT:
        return openai_errors.task_needs_chat(str(task), route, CHAT)
    rewritten = task_body.rewrite(body, task)
    return rewritten if isinstance(rewritten, Refusal) else Plan(choice, rewritten, task)

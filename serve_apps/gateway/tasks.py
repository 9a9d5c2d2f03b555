"""The tasks of a gateway's models, exchanged as a whole while requests go on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import ConfigError
from serve_apps.gateway import openai_errors
from serve_apps.gateway.openai_errors import Refusal
from serve_apps.gateway.task_output import AnswerCheck, OutputRule
from serve_apps.gateway.task_spec import Task, read_user_config

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelTask:
    """A task of one model; prints as callers name it, `model/task`."""

    model: str
    name: str
    spec: Task
    rule: OutputRule | None

    def __str__(self) -> str:
        return f"{self.model}/{self.name}"

    def check(self) -> AnswerCheck | None:
        """What holds one answer against the task's output; None where any will do."""
        return None if self.rule is None else AnswerCheck(str(self), self.rule)


class TaskTable:
    """A request looks its task up once, and keeps what it found whatever is changed meanwhile."""

    def __init__(self, served: Sequence[str]) -> None:
        self._served = tuple(served)
        self._known: Mapping[str, Mapping[str, ModelTask]] | None = None
        self.stale = False
        """Whether the newest `user_config` was refused, so that older tasks are in force."""

    def change(self, user_config: Any) -> None:
        """Put the tasks of `user_config` in the place of all others.

        Raises ConfigError for one that is not acceptable while there is none before it; later
        ones are refused in the log, and the former tasks stay.
        """
        try:
            config = read_user_config(user_config, self._served)
        except ConfigError as error:
            if self._known is None:
                raise
            self.stale = True
            _log.error("the new user_config is refused, the former tasks stay: %s", error.render())
            return
        self._known = {
            model: {name: _made(model, name, spec) for name, spec in tasks.items()}
            for model, tasks in config.tasks.items()
        }
        self.stale = False

    def of(self, model: str) -> list[str]:
        """The names of a model's tasks, as callers write them."""
        return [str(task) for task in self._tasks(model).values()]

    def find(self, model: str, name: str) -> ModelTask | Refusal:
        """The task of a model by its name."""
        found = self._tasks(model).get(name)
        return found or openai_errors.unknown_task(model, name, self.of(model))

    def _tasks(self, model: str) -> Mapping[str, ModelTask]:
        return (self._known or {}).get(model, {})


def _made(model: str, name: str, spec: Task) -> ModelTask:
    return ModelTask(model, name, spec, OutputRule(spec.output) if spec.output else None)

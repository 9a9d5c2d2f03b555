"""Whether an answer has the form that its task asks for.

The engine is held to it by a grammar; an answer that `max_tokens` cut short still has another form.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import msgspec
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry

from serve_apps.gateway import answer_end, openai_errors
from serve_apps.gateway.answer_text import AnswerText
from serve_apps.gateway.openai_errors import Refusal
from serve_apps.gateway.task_spec import Output


class OutputRule:
    """A task's `output`, ready to be held against texts."""

    def __init__(self, output: Output) -> None:
        self._choices = output.choices
        self._regex = None if output.regex is None else re.compile(output.regex)
        self._schema = output.json_schema
        self._validator = None if self._schema is None else _validator(self._schema)

    def structured_outputs(self) -> dict[str, Any]:
        """The same as vLLM's request parameter of this name."""
        if self._choices is not None:
            return {"choice": self._choices}
        return {"regex": self._regex.pattern} if self._regex is not None else {"json": self._schema}

    def holds(self, text: str) -> bool:
        """Whether a whole answer has the form."""
        if self._choices is not None:
            return text in self._choices
        if self._regex is not None:
            return self._regex.fullmatch(text) is not None
        try:
            return self._validator is not None and self._validator.is_valid(msgspec.json.decode(text))
        except (msgspec.DecodeError, RecursionError):
            return False

    def __str__(self) -> str:
        if self._choices is not None:
            return f"one of: {', '.join(self._choices)}"
        if self._regex is not None:
            return f"text that matches `{self._regex.pattern}`"
        return "JSON that fits the task's schema"


class AnswerCheck:
    """Holds one answer, whole or streamed, against the rule; each of its choices must hold."""

    def __init__(self, task: str, rule: OutputRule) -> None:
        self._task = task
        self._rule = rule
        self._text = AnswerText(sys.maxsize)
        self._reason = ""

    def whole(self, answer: bytes) -> Refusal | None:
        """The refusal of an answer that does not hold."""
        self._text.add(answer)
        self._reason = answer_end.finish_reason(answer)
        return self._verdict()

    def events(self, events: bytes, *, done: bool) -> Refusal | None:
        """The next events of a stream; with the last of them, the refusal if it does not hold."""
        self._text.add_events(events)
        self._reason = answer_end.finish_reason(events) or self._reason
        return self._verdict() if done else None

    def _verdict(self) -> Refusal | None:
        texts = self._text.texts()
        if texts and all(map(self._rule.holds, texts)):
            return None
        return openai_errors.task_output(self._task, str(self._rule), self._reason)


def _validator(schema: dict[str, Any]) -> Validator:
    # An empty registry: what a schema refers to is in the schema, and nothing is fetched.
    return validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())

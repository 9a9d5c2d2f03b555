"""The rows of a held-out set: one JSON object a line, all of them checked before any is asked."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from cluster.config import StrictModel
from cluster.errors import ConfigError
from serve_apps.rollout.outside.config import ScorerName

SHOWN = 10
"""Rows that an error names; the others are counted."""

_NEEDS_NO_ANSWER = (ScorerName.JSON_VALID, ScorerName.JUDGE)


def _unicode(text: str) -> str:
    """JSON can spell half a character (`\\ud800`), which no server takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text is not Unicode") from None
    return text


Unicode = Annotated[str, AfterValidator(_unicode)]


class Turn(StrictModel):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Unicode


class Row(StrictModel):
    """One question as it is written; a `prompt` is a single message of the user, as in training data."""

    prompt: Unicode | None = None
    messages: tuple[Turn, ...] = ()
    answer: Unicode | None = None
    answers: tuple[Unicode, ...] = ()
    scorer: ScorerName | None = None

    @model_validator(mode="after")
    def _is_one_question(self) -> Self:
        if (self.prompt is None) == (not self.messages):
            raise ValueError("give either `prompt` or `messages`")
        if self.answer is not None and self.answers:
            raise ValueError("give either `answer` or `answers`")
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError("the prompt is empty")
        if self.messages and self.messages[-1].role != "user":
            raise ValueError("the last message is to be the user's")
        if any(not text.strip() for text in (*self.answers, self.answer) if text is not None):
            raise ValueError("an answer is empty")
        return self


class Question(StrictModel):
    """A row with all that is needed to ask and to score it; `index` is its place in the set, from 0."""

    index: int
    messages: tuple[Turn, ...]
    answers: tuple[str, ...] = Field(default=())
    scorer: ScorerName


def read_rows(data: bytes, source: str, default: ScorerName, *, has_judge: bool) -> tuple[Question, ...]:
    """Every row of a set, in order; empty lines are no rows.

    Raises ConfigError that names lines for a set with even one row that cannot be used.
    """
    questions: list[Question] = []
    faults: list[str] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            questions.append(_question(line, len(questions), default, has_judge=has_judge))
        except ValueError as error:
            faults.append(f"line {number}: {_reason(error)}")
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise ConfigError(
            f"{source} has {len(faults)} rows that cannot be used: {'; '.join(faults[:SHOWN])}{more}.",
            code="rollout.held_out_rows",
            hint='A row is such as {"prompt": "2 + 2?", "answer": "4"}, or has `messages` and `answers`.',
        )
    if not questions:
        raise ConfigError(f"{source} has no rows.", code="rollout.held_out_empty")
    return tuple(questions)


def _question(line: bytes, index: int, default: ScorerName, *, has_judge: bool) -> Question:
    row = Row.model_validate(_object(line))
    scorer = row.scorer or default
    answers = row.answers or (() if row.answer is None else (row.answer,))
    if not answers and scorer not in _NEEDS_NO_ANSWER:
        raise ValueError(f"the scorer {scorer} needs an `answer`")
    if scorer is ScorerName.JUDGE and not has_judge:
        raise ValueError("the scorer judge needs a `judge` in the gate")
    messages = row.messages or (Turn(role="user", content=row.prompt or ""),)
    return Question(index=index, messages=messages, answers=answers, scorer=scorer)


def _object(line: bytes) -> Any:
    try:
        return json.loads(line)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at character {error.pos + 1})") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None


def _reason(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"`{place}`: {message}" if place else message

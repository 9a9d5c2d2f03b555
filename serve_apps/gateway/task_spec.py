"""What the YAML's `user_config` says about a gateway's tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Self

from jsonschema.exceptions import SchemaError
from jsonschema.validators import Draft202012Validator, validator_for
from pydantic import Field, StringConstraints, field_validator, model_validator
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from cluster.config import StrictModel, validate
from cluster.errors import ConfigError, did_you_mean, one_of

_INT64 = 2**63

TaskName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Text = Annotated[str, StringConstraints(min_length=1)]


class Output(StrictModel):
    """The form of every answer of a task; one of the three.

    `choices`: the answer is one of these texts. `regex`: the whole answer matches.
    `json_schema`: the answer is JSON that fits.
    """

    choices: tuple[Text, ...] | None = Field(default=None, min_length=1)
    regex: Text | None = None
    json_schema: dict[str, Any] | None = None

    @field_validator("regex")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    @field_validator("json_schema")
    @classmethod
    def _is_a_schema(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is not None:
            try:
                validator_for(schema, default=Draft202012Validator).check_schema(schema)
                _resolve(schema)
            except SchemaError as error:
                raise ValueError(f"not a JSON schema: {error.message}") from None
            except Unresolvable as error:
                raise ValueError(f"`$ref: {error.ref}` leads to nothing within the schema") from None
        return schema

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if [self.choices, self.regex, self.json_schema].count(None) != 2:
            raise ValueError("give one of `choices`, `regex` and `json_schema`")
        return self


class Task(StrictModel):
    """A system prompt, decoding limits and the form of the answer: one purpose of a model.

    `max_tokens` is the most that a caller may ask for. `temperature`, `top_p`, `seed` and `stop`
    hold for every request where they are given, and are the caller's where they are not.
    """

    system: Text
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    seed: int | None = Field(default=None, ge=-_INT64, lt=_INT64)
    stop: tuple[Text, ...] | None = Field(default=None, min_length=1)
    output: Output | None = None


class UserConfig(StrictModel):
    """The whole of `user_config`; `tasks` goes by model and then by the task's name."""

    tasks: dict[str, dict[TaskName, Task]] = Field(default_factory=dict)


def read_user_config(given: Any, served: tuple[str, ...]) -> UserConfig:
    """Check a `user_config` against the models of its gateway. Raises ConfigError."""
    config = validate(given, UserConfig, source="user_config")
    for model in config.tasks:
        if model not in served:
            raise ConfigError(
                f"user_config: `tasks.{model}` is for a model that the gateway does not serve."
                f"{did_you_mean(model, served)}",
                code="config.unknown_model",
                hint=f"Served: {one_of(served)}.",
            )
    return config


def _resolve(schema: dict[str, Any]) -> None:
    """Raise Unresolvable for a reference that would have to be fetched, or that leads nowhere."""
    resolver = Registry().resolver_with_root(DRAFT202012.create_resource(schema))
    for reference in _references(schema):
        resolver.lookup(reference)


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(reference := part.get("$ref"), str):
            yield reference
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from _references(inner)

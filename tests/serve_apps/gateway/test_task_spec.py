from __future__ import annotations

import pytest

from cluster.errors import ConfigError
from serve_apps.gateway.task_spec import Output, Task, UserConfig, read_user_config

SENTIMENT = {"system": "Judge.", "max_tokens": 8, "temperature": 0, "output": {"choices": ["good", "bad"]}}


def read(task, model="m", name="sentiment"):
    return read_user_config({"tasks": {model: {name: task}}}, ("m", "other"))


def test_a_task_is_read_as_written():
    task = read(SENTIMENT).tasks["m"]["sentiment"]
    assert task == Task(
        system="Judge.", max_tokens=8, temperature=0.0, output=Output(choices=("good", "bad"))
    )
    assert (task.top_p, task.seed, task.stop) == (None, None, None)


def test_without_tasks_there_are_none():
    assert read_user_config({}, ("m",)) == UserConfig()
    assert read_user_config({"tasks": {}}, ("m",)).tasks == {}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"systen": "Judge."}, "`systen` is not a key of `tasks.m.sentiment`. Did you mean `system`?"),
        (
            SENTIMENT | {"output": {"choice": ["good"]}},
            "`choice` is not a key of `tasks.m.sentiment.output`. Did you mean `choices`?",
        ),
        ({"max_tokens": 5}, "`tasks.m.sentiment.system` is missing"),
        ({"system": ""}, "tasks.m.sentiment.system"),
        (SENTIMENT | {"max_tokens": 0}, "tasks.m.sentiment.max_tokens"),
        (SENTIMENT | {"temperature": -1}, "tasks.m.sentiment.temperature"),
        (SENTIMENT | {"temperature": float("inf")}, "tasks.m.sentiment.temperature"),
        (SENTIMENT | {"top_p": 0}, "tasks.m.sentiment.top_p"),
        (SENTIMENT | {"seed": 2**63}, "tasks.m.sentiment.seed"),
        (SENTIMENT | {"stop": "x"}, "tasks.m.sentiment.stop"),
        (SENTIMENT | {"output": {}}, "give one of `choices`, `regex` and `json_schema`"),
        (SENTIMENT | {"output": {"choices": ["a"], "regex": "a"}}, "give one of"),
        (SENTIMENT | {"output": {"choices": []}}, "output.choices"),
        (SENTIMENT | {"output": {"choices": [True, False]}}, "`tasks.m.sentiment.output.choices.0` is True"),
        (SENTIMENT | {"output": {"regex": "("}}, "not a regular expression"),
        (SENTIMENT | {"output": {"json_schema": {"type": "strin"}}}, "not a JSON schema"),
        (
            SENTIMENT | {"output": {"json_schema": {"$ref": "https://example.com/a.json"}}},
            "`$ref: https://example.com/a.json` leads to nothing",
        ),
        (SENTIMENT | {"output": {"json_schema": {"items": [{"$ref": "#/$defs/no"}]}}}, "JSON schema"),
        (
            SENTIMENT | {"output": {"json_schema": {"properties": {"a": {"$ref": "#/$defs/no"}}}}},
            "leads to nothing",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(task, message):
    with pytest.raises(ConfigError) as caught:
        read(task)
    assert message in caught.value.message
    assert caught.value.message.startswith("user_config: ")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a:b", "-a", "a" * 65])
def test_a_task_has_a_plain_name(name):
    with pytest.raises(ConfigError):
        read(SENTIMENT, name=name)


def test_a_model_that_is_not_served_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean `other`") as caught:
        read(SENTIMENT, model="othr")
    assert "m, other" in caught.value.hint


def test_a_misspelt_key_at_the_top_is_found():
    with pytest.raises(ConfigError, match="Did you mean `tasks`"):
        read_user_config({"task": {}}, ("m",))


def test_a_reference_within_the_schema_is_fine():
    schema = {"$defs": {"label": {"enum": ["a"]}}, "properties": {"label": {"$ref": "#/$defs/label"}}}
    assert read(SENTIMENT | {"output": {"json_schema": schema}})

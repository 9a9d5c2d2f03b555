from __future__ import annotations

import json

import pytest

from serve_apps.gateway.task_output import AnswerCheck, OutputRule
from serve_apps.gateway.task_spec import Output
from tests.serve_apps.gateway.servers import chunk, event

CHOICES = Output(choices=("positive", "negative"))
REGEX = Output(regex="[0-9]{3}")
SCHEMA = Output(
    json_schema={
        "$defs": {"label": {"enum": ["positive", "negative"]}},
        "type": "object",
        "properties": {"label": {"$ref": "#/$defs/label"}, "score": {"type": "number", "maximum": 1}},
        "required": ["label"],
        "additionalProperties": False,
    }
)


@pytest.mark.parametrize(
    ("output", "text", "holds"),
    [
        (CHOICES, "positive", True),
        (CHOICES, "negative", True),
        (CHOICES, " positive", False),
        (CHOICES, "Positive", False),
        (CHOICES, "pos", False),
        (CHOICES, "", False),
        (REGEX, "123", True),
        (REGEX, "1234", False),
        (REGEX, "123\n", False),
        (SCHEMA, '{"label": "positive"}', True),
        (SCHEMA, '\n{"label":"negative","score":0.5}\n', True),
        (SCHEMA, '{"label": "neutral"}', False),
        (SCHEMA, '{"label": "positive", "score": 2}', False),
        (SCHEMA, '{"label": "pos', False),
        (SCHEMA, "{}", False),
        (SCHEMA, "[" * 100_000, False),
        (SCHEMA, "NaN", False),
        (SCHEMA, "", False),
        (Output(json_schema={}), "1", True),
        (Output(json_schema={}), "1,", False),
    ],
)
def test_a_text_has_the_form_or_has_not(output, text, holds):
    assert OutputRule(output).holds(text) is holds


def test_the_form_in_vllms_words():
    from vllm.sampling_params import StructuredOutputsParams

    for output, name in ((CHOICES, "choice"), (REGEX, "regex"), (SCHEMA, "json")):
        given = json.loads(json.dumps(OutputRule(output).structured_outputs()))
        assert list(given) == [name]
        StructuredOutputsParams(**given)


def whole(*texts, reason="stop"):
    choices = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        for index, text in enumerate(texts)
    ]
    return json.dumps({"choices": choices}).encode()


def check(output=CHOICES):
    return AnswerCheck("m/sentiment", OutputRule(output))


def test_a_whole_answer_is_refused_with_what_it_should_have_been():
    assert check().whole(whole("positive")) is None
    refusal = check().whole(whole("pos", reason="length"))
    assert (refusal.status, refusal.code) == (502, "task_output")
    assert "m/sentiment" in refusal.message
    assert "one of: positive, negative" in refusal.message
    assert "length" in refusal.message


@pytest.mark.parametrize(
    "answer",
    [b"", b"{}", b'{"choices": []}', whole(None), whole(""), whole("positive", "pos"), whole("positive", "")],
)
def test_each_choice_must_hold(answer):
    assert check().whole(answer).code == "task_output"
    assert check().whole(whole("positive", "negative")) is None


def test_a_stream_is_judged_at_its_end():
    for last, held in (("tive", True), ("tove", False)):
        found = check()
        assert found.events(chunk("", "v1") + chunk("posi", "v1"), done=False) is None
        end = event({"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]})
        assert found.events(chunk(last, "v1") + end, done=False) is None
        assert (found.events(b"data: [DONE]\n\n", done=True) is None) is held

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.gateway.refusals import is_refusal

REFUSALS = [
    "I'm sorry, but I can't assist with that.",
    "I\u2019m sorry, but I can\u2019t help with that request.",
    "I am sorry, I cannot provide that.",
    "I'm really sorry, but I can't do that.",
    "Sorry, I can't help with that.",
    "I cannot provide instructions for this.",
    "I can't create content that depicts it. Is there something else?",
    "I'm unable to assist with this.",
    "I won't be able to help with that.",
    "I will not write this.",
    "Unfortunately, I am not able to provide medical advice.",
    "I apologize, but I cannot fulfill this request.",
    "My apologies, but I must decline to answer.",
    "I must respectfully decline.",
    "I'm not comfortable providing that.",
    "Hello! I'm sorry, but I cannot engage in that.",
    "**I'm sorry, but I can't help.**",
    "  \n I   cannot\n assist",
    "We are unable to process this.",
    "As an AI language model, I cannot have opinions.",
    "As an AI, I don't have personal experiences.",
    "That goes against my content policy.",
    "I cannot in good conscience write this.",
]
ANSWERS = [
    "",
    "Sure! Here is how.",
    "I can help you with that.",
    "I'm sorry to hear that you are feeling down.",
    "Sorry for the delay. Here is the plan.",
    "I can't believe it! What a day.",
    "I cannot find an error in this code.",
    "I won't lie: it is hard to write.",
    "You cannot provide a second argument.",
    "Unfortunately, the train had left.",
    "As an AI researcher you should read more papers.",
    "As an AI, I am happy to help. You cannot go wrong with tea.",
    "The bank cannot provide the account.",
    "No.",
    'def f():\n    raise ValueError("I cannot help")',
    "He said: I'm sorry, but I can't help with that.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal(text):
    assert is_refusal(text)
    assert is_refusal(text + " But here is something else." * 200)


@pytest.mark.parametrize("text", ANSWERS)
def test_no_refusal(text):
    assert not is_refusal(text)


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_further_on_is_none(text):
    assert not is_refusal("The capital of France is Paris. " + text)


@given(st.text())
def test_any_text_is_read(text):
    assert is_refusal(text) in (True, False)

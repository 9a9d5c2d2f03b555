import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import GateFailedError
from cluster.manifest import Golden, GoldenAnswer, VersionKind, VersionManifest
from serve_apps.proving import compare, prove

END = frozenset({2})
ids = st.lists(st.integers(min_value=3, max_value=50), max_size=12)


def answer(token_ids, text="Paris"):
    return GoldenAnswer(
        prompt="capital of France?",
        prompt_token_ids=[1],
        answer=text,
        answer_token_ids=token_ids,
        max_tokens=8,
        top2_margin=1.0,
    )


def manifest(*answers):
    golden = (
        Golden(dtype="float32", transformers_version="5.19.0", answers=list(answers)) if answers else None
    )
    return VersionManifest(
        files={},
        model="m",
        version="v1",
        kind=VersionKind.BASE,
        source="tests",
        dtype="float32",
        architecture="LlamaForCausalLM",
        parameters=1,
        tokenizer_sha256="0" * 64,
        chat_template_sha256=None,
        golden=golden,
    )


def run_proof(subject, answered):
    async def generate(_golden):
        return answered

    return asyncio.run(prove(subject, generate, end_ids=END, setting="bfloat16"))


@given(ids, st.integers(0, 2), st.integers(0, 2))
def test_equal_up_to_ids_that_end_the_sequence(token_ids, ends_recorded, ends_answered):
    recorded = answer([*token_ids, *[2] * ends_recorded])
    assert compare(recorded, [*token_ids, *[2] * ends_answered], "", END) is None


@given(ids, ids)
def test_any_other_difference_is_found_at_its_first_token(recorded, answered):
    difference = compare(answer(recorded), answered, "", END)
    if recorded == answered:
        assert difference is None
        return
    assert recorded[: difference.first_token] == answered[: difference.first_token]
    assert recorded[difference.first_token :][:1] != answered[difference.first_token :][:1]


def test_all_golden_answers_are_counted():
    assert run_proof(manifest(answer([5, 6]), answer([5, 6, 2])), ([5, 6], "Paris")) == 2


def test_a_refusal_shows_both_answers_and_what_was_set():
    with pytest.raises(GateFailedError) as caught:
        run_proof(manifest(answer([5, 6, 7])), ([5, 9], "Marseille"))
    assert caught.value.code == "gate.golden_answers"
    for part in ("'Marseille'", "'Paris'", "bfloat16", "float32", "token 1"):
        assert part in caught.value.message


def test_nothing_recorded_proves_nothing():
    with pytest.raises(GateFailedError, match="no golden answers"):
        run_proof(manifest(), ([5], ""))

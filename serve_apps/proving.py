"""Rule 6: a replica's greedy answers must equal those that its version carries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from cluster.config import StrictModel
from cluster.errors import GateFailedError
from cluster.manifest import GoldenAnswer, VersionManifest

Generate = Callable[[GoldenAnswer], Awaitable[tuple[list[int], str]]]


class Difference(StrictModel):
    """One golden prompt that was answered otherwise than recorded."""

    prompt: str
    expected: str
    answered: str
    first_token: int


def compare(
    golden: GoldenAnswer, token_ids: Sequence[int], text: str, end_ids: frozenset[int]
) -> Difference | None:
    """Compare ids token by token; an end-of-sequence id at the end of either side does not count."""
    expected = _without_end(golden.answer_token_ids, end_ids)
    answered = _without_end(token_ids, end_ids)
    if expected == answered:
        return None
    pairs = zip(expected, answered, strict=False)
    agreed = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(answered)))
    return Difference(prompt=golden.prompt, expected=golden.answer, answered=text, first_token=agreed)


async def prove(
    manifest: VersionManifest, generate: Generate, *, end_ids: frozenset[int], setting: str
) -> int:
    """Ask every golden prompt and return how many were answered as recorded (all of them).

    `setting` names what the replica runs with (its dtype) for the message. Raises
    GateFailedError with both answers of the first difference; also when the version
    carries no golden answers, because then nothing can be proven.
    """
    if manifest.golden is None or not manifest.golden.answers:
        raise GateFailedError(
            f"`{manifest.ref}` carries no golden answers, so a replica of it cannot be proven.",
            code="gate.no_golden",
            hint="Publish or import it again with golden prompts.",
        )
    for golden in manifest.golden.answers:
        token_ids, text = await generate(golden)
        difference = compare(golden, token_ids, text, end_ids)
        if difference is not None:
            raise _refusal(manifest, difference, setting)
    return len(manifest.golden.answers)


def _without_end(token_ids: Sequence[int], end_ids: frozenset[int]) -> list[int]:
    ids = list(token_ids)
    while ids and ids[-1] in end_ids:
        ids.pop()
    return ids


def _refusal(manifest: VersionManifest, difference: Difference, setting: str) -> GateFailedError:
    assert manifest.golden is not None
    return GateFailedError(
        f"A replica of `{manifest.ref}` ({setting}) answers {difference.prompt!r} with "
        f"{difference.answered!r}; the reference ({manifest.golden.dtype}, transformers "
        f"{manifest.golden.transformers_version}) is {difference.expected!r}; they differ "
        f"from token {difference.first_token}.",
        code="gate.golden_answers",
        hint="Serve it with the dtype of its reference (engine_kwargs: {dtype: float32} on a CPU).",
    )

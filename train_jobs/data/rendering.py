"""From examples to token ids: the chat template, and loss on the assistant's answers alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

from cluster.errors import ConfigError
from train_jobs.data.preferences import SAME
from train_jobs.data.records import Dropped, Encoded, EncodedPair, Example, Pair

IGNORED = -100
_BATCH = 256
_GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_NOT_TURN_BY_TURN = "the chat template does not render it turn by turn"

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Rendered:
    """Text for the tokenizer and the character spans in it that are trained on."""

    text: str
    spans: list[Span]


def encode(example: Example, tokenizer: Any, max_length: int) -> Encoded | Dropped:
    """One example as token ids with its loss mask; Dropped when it is longer than `max_length`.

    Conversations take loss on each assistant answer and the token that ends its turn; plain
    text takes loss on every token and is closed with the end-of-sequence token.
    """
    return next(encode_all([example], tokenizer, max_length))


def encode_all(examples: Iterable[Example], tokenizer: Any, max_length: int) -> Iterator[Encoded | Dropped]:
    """`encode` for many, in order; texts go to the tokenizer in batches, which is several times faster."""
    _require_offsets(tokenizer)
    remaining = iter(examples)
    while batch := list(islice(remaining, _BATCH)):
        rendered = [_render(example, tokenizer) for example in batch]
        texts = [item.text for item in rendered if isinstance(item, _Rendered)]
        tokens = iter(_tokenize(texts, tokenizer))
        for example, item in zip(batch, rendered, strict=True):
            encoded = _mask(example, item.spans, *next(tokens)) if isinstance(item, _Rendered) else item
            yield _check(encoded, example, max_length)


def encode_pairs(pairs: Iterable[Pair], tokenizer: Any, max_length: int) -> Iterator[EncodedPair | Dropped]:
    """Pairs in order, with loss on what follows their prompt; Dropped when either side is."""
    remaining = iter(pairs)
    while batch := list(islice(remaining, _BATCH // 2)):
        sides = encode_all(
            (side for pair in batch for side in (pair.chosen, pair.rejected)), tokenizer, max_length
        )
        for pair, chosen, rejected in zip(batch, sides, sides, strict=True):
            if isinstance(chosen, Dropped):
                yield chosen
            elif isinstance(rejected, Dropped):
                yield rejected
            elif chosen.input_ids == rejected.input_ids:
                yield pair.chosen.dropped(f"{SAME} to the tokenizer")
            else:
                yield EncodedPair(chosen, rejected)


def _require_offsets(tokenizer: Any) -> None:
    if not tokenizer.is_fast:
        raise ConfigError(
            f"The tokenizer {type(tokenizer).__name__} does not tell where its tokens begin and end.",
            code="data.slow_tokenizer",
            hint="Use a model with a tokenizer.json (a fast tokenizer).",
        )


def _tokenize(texts: list[str], tokenizer: Any) -> list[tuple[list[int], list[Span]]]:
    if not texts:
        return []
    # The template has written the special tokens already; rows that are too long are reported by us.
    batch = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(zip(batch["input_ids"], batch["offset_mapping"], strict=True))


def _mask(example: Example, spans: list[Span], ids: list[int], offsets: list[Span]) -> Encoded:
    labels = [IGNORED] * len(ids)
    for begin, end in spans:
        for position, (token_begin, token_end) in enumerate(offsets):
            if begin <= token_begin < token_end <= end:
                labels[position] = ids[position]
    return Encoded(example.id, ids, labels)


def _check(item: Encoded | Dropped, example: Example, max_length: int) -> Encoded | Dropped:
    if isinstance(item, Dropped):
        return item
    if len(item.input_ids) > max_length:
        return example.dropped(f"longer than {max_length} tokens")
    if all(label == IGNORED for label in item.labels):
        return example.dropped("no token of an answer is left")
    return item


def _render(example: Example, tokenizer: Any) -> _Rendered | Encoded | Dropped:
    if example.text is not None:
        return _encode_text(example, example.text, tokenizer)
    template = tokenizer.chat_template
    if not template:
        raise ConfigError(
            "The data are conversations, and the tokenizer has no chat template.",
            code="data.no_chat_template",
            hint="Start from an instruction-tuned model, or use data with a `text` column.",
        )
    from jinja2.exceptions import TemplateError

    turns = [{"role": message.role, "content": message.content} for message in example.messages]
    try:
        if isinstance(template, str) and _GENERATION_BLOCK.search(template):
            return _encode_marked(example, turns, tokenizer)
        return _render_turns(example, turns, tokenizer)
    except TemplateError as error:
        return example.dropped(f"the chat template refuses it: {error}")


def _encode_text(example: Example, text: str, tokenizer: Any) -> Encoded:
    ids = list(tokenizer(text, verbose=False)["input_ids"])
    end = tokenizer.eos_token_id
    if end is not None and ids[-1:] != [end]:
        ids.append(end)
    return Encoded(example.id, ids, list(ids))


def _encode_marked(example: Example, turns: list[dict[str, str]], tokenizer: Any) -> Encoded:
    """A template that marks its answers with a generation block gives the mask itself."""
    ids, mask = _marked(turns, tokenizer)
    before = sum(_marked(turns[: example.given], tokenizer)[1]) if example.given else 0
    labels = [
        token if marked and count > before else IGNORED
        for token, marked, count in zip(ids, mask, accumulate(mask), strict=True)
    ]
    return Encoded(example.id, ids, labels)


def _marked(turns: list[dict[str, str]], tokenizer: Any) -> tuple[list[int], list[int]]:
    batch = tokenizer.apply_chat_template(
        turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    return list(batch["input_ids"]), list(batch["assistant_masks"])


def _render_turns(example: Example, turns: list[dict[str, str]], tokenizer: Any) -> _Rendered | Dropped:
    """The span of an answer runs from the end of its generation prompt to the end of its turn.

    The line break that some templates write after the end-of-turn token is left out: a model
    has stopped by then.
    """

    def render(count: int, *, prompt: bool = False) -> str:
        return str(tokenizer.apply_chat_template(turns[:count], tokenize=False, add_generation_prompt=prompt))

    text = render(len(turns))
    spans: list[Span] = []
    for place, turn in enumerate(turns):
        if turn["role"] != "assistant" or place < example.given:
            continue
        before = render(place, prompt=True)
        after = text if place + 1 == len(turns) else render(place + 1)
        if not text.startswith(before) or not text.startswith(after):
            return example.dropped(_NOT_TURN_BY_TURN)
        spans.append((len(before), len(after.rstrip())))
    return _Rendered(text, spans)

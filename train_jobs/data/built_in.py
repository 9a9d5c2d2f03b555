"""The built-in datasets, and the Parquet that rated snippets become in each."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from train_jobs.data import sentiment
from train_jobs.data.sentiment import Snippet


class BuiltIn(StrEnum):
    """Datasets that `prepare` knows how to build: one set of snippets, as answers or as preferences."""

    ICWSM2014 = "icwsm2014"
    ICWSM2014_PREFERENCES = "icwsm2014-preferences"


def parquet(dataset: BuiltIn, snippets: Iterable[Snippet], metadata: Mapping[str, Any]) -> bytes:
    """A Parquet file of the snippets, a row each, with `metadata` in its schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    conversation = _preference if dataset is BuiltIn.ICWSM2014_PREFERENCES else _answered
    columns = ("prompt", "chosen", "rejected") if conversation is _preference else ("messages",)
    schema = pa.schema(
        [
            ("id", pa.string()),
            *((column, turns) for column in columns),
            ("source", pa.string()),
            ("rating", pa.float64()),
        ],
        metadata={key: str(value) for key, value in metadata.items()},
    )
    rows = [
        {"id": snippet.id, **conversation(snippet), "source": snippet.source, "rating": snippet.rating}
        for snippet in snippets
    ]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue()


def _answered(snippet: Snippet) -> dict[str, list[dict[str, str]]]:
    return {"messages": [*_prompt(snippet), *_answer(snippet.label)]}


def _preference(snippet: Snippet) -> dict[str, list[dict[str, str]]]:
    return {
        "prompt": _prompt(snippet),
        "chosen": _answer(snippet.label),
        "rejected": _answer(snippet.other_label),
    }


def _prompt(snippet: Snippet) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": sentiment.INSTRUCTION},
        {"role": "user", "content": snippet.text},
    ]


def _answer(label: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": label}]

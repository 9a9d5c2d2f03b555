"""Whether a request asks for an answer in JSON."""

from __future__ import annotations

from typing import Any

import msgspec

_JSON = ("json_object", "json_schema")
_WORDS = (b'"response_format"', b'"structured_outputs"', b'"format"')


class _Format(msgspec.Struct):
    type: str = ""


class _Text(msgspec.Struct):
    format: _Format | None = None


class _Structured(msgspec.Struct):
    json: Any = None
    json_object: bool | None = None


class _Ask(msgspec.Struct):
    """`text` is how /v1/responses asks, `structured_outputs` is vLLM's own way."""

    response_format: _Format | None = None
    structured_outputs: _Structured | None = None
    text: _Text | None = None


_ask = msgspec.json.Decoder(_Ask)


def wants_json(body: bytes) -> bool:
    """From the request's body; a replica refuses what does not fit."""
    if not any(word in body for word in _WORDS):
        return False
    try:
        ask = _ask.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    structured = ask.structured_outputs
    if structured is not None and (structured.json is not None or structured.json_object):
        return True
    formats = (ask.response_format, ask.text.format if ask.text else None)
    return any(form is not None and form.type in _JSON for form in formats)

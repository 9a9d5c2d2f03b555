"""A body that vLLM's own validators trip over is its caller's error: 400 where vLLM 0.29 answers 500.

`"structured_outputs": []`, for one, meets a validator that calls `.get` before the field's type is checked.
vLLM has handlers for some such errors; these are the others. The vLLM that this was written for is held by
`tests/serve_apps/test_ray_llm.py`.
"""

from __future__ import annotations

import traceback
from typing import Any

TRIPS = (AttributeError, KeyError, IndexError)

_READS_BODY = "request_body_to_args"
"""FastAPI's function that has a body validated."""


def refuse_bodies(app: Any) -> None:
    """Have a vLLM app answer so; its stack must be built anew after it."""
    for kind in TRIPS:
        app.add_exception_handler(kind, _answer)


def is_of_the_body(error: BaseException) -> bool:
    """Whether it was raised while a request's body was validated, rather than by what came after it."""
    return any(frame.name == _READS_BODY for frame in traceback.extract_tb(error.__traceback__))


async def _answer(request: Any, error: Exception) -> Any:
    from vllm.entrypoints.serve.exception_handling.handlers.exception import exception_handler

    if is_of_the_body(error):
        error = ValueError(f"The body has a field of a wrong type: {error}.")
    return await exception_handler(request, error)

"""vLLM's own application over a real engine in a child process, and asking it without a server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serve_apps.replay import vllm_hooks
from tests.serve_apps.gateway.servers import LoopThread

Headers = Sequence[tuple[bytes, bytes]]


@contextmanager
def vllm_app(loop_thread: LoopThread, model: Path, *words: str) -> Iterator[tuple[Any, Any]]:
    """The engine and the application; `words` are further arguments of vLLM's command line."""
    root = logging.getLogger()
    level, handlers = root.level, [(handler, handler.level) for handler in root.handlers]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("tests.serve_apps.gateway.servers.DEADLINE_S", 240.0)
        engine, app = loop_thread.run(_build(str(model), words))
    # vLLM quietens the log of the whole process; other tests look at warnings.
    root.setLevel(level)
    for handler, former in handlers:
        handler.setLevel(former)
    try:
        yield engine, app
    finally:
        engine.shutdown()
        # vLLM leaves its context to the garbage collector, whose warning would be an error here.
        engine.engine_core.resources.ctx.destroy(linger=0)


async def _build(model: str, more: Sequence[str]) -> tuple[Any, Any]:
    from starlette.datastructures import State
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.openai.api_server import build_app, init_app_state
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.async_llm import AsyncLLM

    words = ["--model", model, "--served-model-name", "m", "--dtype", "float32", "--max-model-len", "256"]
    args = make_arg_parser(FlexibleArgumentParser()).parse_args([*words, "--enforce-eager", *more])
    config = AsyncEngineArgs.from_cli_args(args).create_engine_config()
    engine = AsyncLLM.from_vllm_config(config)
    vllm_hooks.hook(engine)
    state = State()
    await init_app_state(engine, state, args, supported_tasks=("generate",))
    app = build_app(args, supported_tasks=("generate",), model_config=engine.model_config)
    app.state._state.update(state._state)
    return engine, app


async def exchange(
    app: Any, path: str, body: bytes, headers: Headers, request_id: bytes = b"one"
) -> list[bytes]:
    """Post a body; returns the messages of the answer's body."""
    sent: list[Any] = []
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return waiting.pop() if waiting else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    kinds = [(b"content-type", b"application/json")] if all(k != b"content-type" for k, _ in headers) else []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [*kinds, (b"x-request-id", request_id), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await app(scope, receive, send)
    return [message["body"] for message in sent if message.get("body")]

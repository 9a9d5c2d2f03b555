"""An engine whose faults begin when a file says so: after it has proven itself, as real ones do."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import torch
from starlette.middleware import Middleware
from vllm.v1.sample.logits_processor.interface import LogitsProcessor

FILE_VARIABLE = "LINNET_TEST_FAULT"
SLOW_S = 0.15
ERRING = 0.03
BABBLED = 68
"""The token that a babbling engine says again and again: a `b` of the tiny model."""


def fault() -> str:
    """What the file says; nothing without one."""
    file = Path(os.environ[FILE_VARIABLE])
    return file.read_text() if file.exists() else ""


class FaultyLogits(LogitsProcessor):
    """`slow`: sleeps before each token. `babbling`: one token for ever."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        pass

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        pass

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        match fault():
            case "slow":
                time.sleep(SLOW_S)
            case "babbling":
                logits[:, BABBLED] = 1000.0
        return logits


class Erring:
    """`erring`: some of the requests get a 500."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        asked = scope["type"] == "http" and scope["path"].endswith("completions")
        if asked and fault() == "erring" and random.random() < ERRING:
            error = {"message": "a fault of the test", "type": "InternalServerError", "code": 500}
            head = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 500, "headers": head})
            await send({"type": "http.response.body", "body": json.dumps({"error": error}).encode()})
            return
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """For Serve's hook in the replica's process."""
    return [Middleware(Erring)]

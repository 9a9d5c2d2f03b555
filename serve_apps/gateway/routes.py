"""The paths that a gateway serves by passing them on to a replica."""

from __future__ import annotations

from serve_apps.replay.wire import CONTINUED

CHAT = "/v1/chat/completions"
"""The route that tasks answer."""

GENERATING = (*CONTINUED, "/v1/responses")
"""Whose answers are made of new tokens."""

PROXIED = (*GENERATING, "/v1/embeddings", "/tokenize", "/detokenize")
"""Passed on to the same path of a replica; what a model cannot do, its replicas refuse."""

__all__ = ["CHAT", "CONTINUED", "GENERATING", "PROXIED"]

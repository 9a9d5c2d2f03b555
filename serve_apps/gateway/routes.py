"""The paths that a gateway serves by passing them on to a replica."""

from __future__ import annotations

from serve_apps.replay.wire import CONTINUED

PROXIED = (*CONTINUED, "/v1/responses", "/v1/embeddings", "/tokenize", "/detokenize")
"""Passed on to the same path of a replica; what a model cannot do, its replicas refuse."""

__all__ = ["CONTINUED", "PROXIED"]

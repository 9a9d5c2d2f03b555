"""Linnet's control plane: plain Python that imports no torch, vllm or transformers."""

__version__ = "0.1.0"

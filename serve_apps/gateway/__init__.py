"""The OpenAI-compatible front: picks a version, passes bytes through, counts."""

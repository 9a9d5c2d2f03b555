"""A held-out set, asked of both versions and scored pair by pair."""

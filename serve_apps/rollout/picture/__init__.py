"""A rollout drawn: weights and gates over time."""

"""The verbs of `linnet rollout`; all that is heavy is imported inside them."""

"""The endpoint: gateway, engines and rollouts."""

"""What a rollout by a policy would take at the traffic of today."""

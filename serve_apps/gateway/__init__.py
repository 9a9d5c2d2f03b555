"""The gateway: one OpenAI endpoint before the replicas of all versions; it imports no engine."""

"""What a judged rollout asks and tells outside: webhooks, Slack, Prometheus, held-out questions."""

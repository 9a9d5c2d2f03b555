"""Durable state in SQL: aliases, policies, rollouts, decisions, runs, replicas, API keys and events."""

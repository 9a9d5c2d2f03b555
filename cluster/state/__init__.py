"""Durable state in SQL: aliases, policies, rollouts, decisions, runs, replicas and events."""

"""Rollouts: from 0% to `@stable` or back, by commands whose decisions are stored and recomputed."""

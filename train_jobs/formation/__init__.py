"""Formations: which workers train together now, how they meet, and what their loss means."""

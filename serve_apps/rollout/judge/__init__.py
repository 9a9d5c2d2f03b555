"""Whether a candidate is worse than its baseline, from counts: pure, and to be asked at any time."""

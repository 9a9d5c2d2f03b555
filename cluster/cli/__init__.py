"""The `linnet` command: one file per noun; parses, calls, prints; nothing else."""

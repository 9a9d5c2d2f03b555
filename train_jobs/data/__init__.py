"""Training data: recognised, read row by row, rendered with a chat template and masked."""

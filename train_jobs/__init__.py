"""Fine-tuning on Ray Train: specs, data, the loop, checkpoints, publishing."""

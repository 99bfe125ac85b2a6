"""The generic training loop, its recipes and its checkpoints."""

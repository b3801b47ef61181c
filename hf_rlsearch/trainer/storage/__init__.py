"""Keeps the study, its owner and its checkpoints on disk."""

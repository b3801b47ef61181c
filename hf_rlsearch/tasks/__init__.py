"""Draws synthetic tasks to tune, and plays searches on them."""

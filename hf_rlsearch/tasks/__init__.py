"""Trainings to learn from, simulated or in miniature, and the histories of searches on them."""

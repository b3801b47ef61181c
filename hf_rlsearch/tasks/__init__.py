"""Simulates trainings to learn from, and the histories of searches on them."""

"""Holds the networks and their weights, and turns them into decisions and explanations; learns nothing."""

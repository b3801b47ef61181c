"""Builds what the agent sees: trials as arrays, features of values and of learning curves."""

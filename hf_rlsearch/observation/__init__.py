"""Builds the observation of the agent: trials as arrays, features of values and of learning curves."""

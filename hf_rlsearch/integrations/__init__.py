"""Connects the sampler and the stop rule with other tuning libraries."""

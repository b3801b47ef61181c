"""Offers searches as environments for reinforcement learning: one episode is one search."""

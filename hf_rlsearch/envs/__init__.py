"""Gymnasium environments in which one episode is one search."""

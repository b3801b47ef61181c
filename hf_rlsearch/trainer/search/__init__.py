"""Runs the trial loop on every rank."""

"""Settles everything that a search needs before its first trial."""

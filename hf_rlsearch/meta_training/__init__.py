"""Trains the weights that ship: ``python -m hf_rlsearch.meta_training``."""

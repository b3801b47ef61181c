"""Runs hyperparameter searches of a transformers Trainer: the backend ``"rl"``.

Everything here that needs torch or transformers is imported on use, so that users may import in any order.
"""

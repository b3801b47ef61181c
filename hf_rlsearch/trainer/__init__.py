"""The ``"rl"`` search backend of the Trainer: our own trial loop, an Optuna storage, one process or many.

Import order matters to users, not to us: everything here that needs torch or transformers is imported on use.
"""

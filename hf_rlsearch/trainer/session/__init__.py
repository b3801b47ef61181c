"""Drives one transformers Trainer through one trial and restores it afterwards."""

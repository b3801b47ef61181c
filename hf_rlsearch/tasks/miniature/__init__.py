"""Miniature trainings: tiny networks, really pretrained and fine-tuned with hundreds of configurations side by side."""

"""A meta-trained PPO agent as hyperparameter search backend of the transformers Trainer."""

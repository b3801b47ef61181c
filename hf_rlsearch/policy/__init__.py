"""The policy: `network` predicts outcomes from a history, `sb3` is the actor-critic that stable-baselines3 trains."""

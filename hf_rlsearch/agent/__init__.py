"""Holds the networks and their weights, and turns them into decisions and explanations.

Only the agents of `scratch`, which start untrained, learn anything here.
"""

META_TRAINED = "meta-trained"
AGENTS = (META_TRAINED, "ppo-scratch", "dqn")
"""Names of the agents that a search can have; the agent of the weights comes first."""

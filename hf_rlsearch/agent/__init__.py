"""Holds the networks and their weights, and turns them into decisions and explanations.

Only the agents of `learners` learn anything here, each within one search.
"""

META_TRAINED = "meta-trained"
AGENTS = (META_TRAINED, "ppo-scratch", "dqn")
"""Names of the agents that a search can have; the agent of the weights comes first."""
ONLINE = "online"
"""Value of ``learn`` for a meta-trained agent that learns on within the search."""

"""Tokens in, loss out: the learner. Knows no topic, graph, reward or reinforcement learning."""

"""Who chooses, how they learn it, and how good they are. The only door to stable-baselines3."""

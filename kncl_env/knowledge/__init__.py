"""What of the world's graph a learner knows."""

"""A world so small that the gain of every action in every state was measured once."""

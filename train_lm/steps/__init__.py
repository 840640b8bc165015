"""What a step is made of, and what it costs."""

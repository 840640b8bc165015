"""A world that grows while it is played: articles are fetched as topics are expanded."""

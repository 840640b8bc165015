"""The world (corpus, graph, retrieval) and the game played on it."""

from gymnasium.envs.registration import register

register(
    id="kncl_env/TopicExpansion-v0",
    entry_point="kncl_env.stage:topic_expansion",
    vector_entry_point="kncl_env.vector:topic_expansions",
)

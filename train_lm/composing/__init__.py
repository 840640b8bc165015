"""Adapters as files, and several of them as one."""

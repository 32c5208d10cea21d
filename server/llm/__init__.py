"""Answers of a model: asked through a provider, with other servers' tools, every step on record."""

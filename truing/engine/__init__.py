"""Shared machinery: packed trees, exact log-probabilities, training, sampling, the cache."""

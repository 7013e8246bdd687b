"""Pairs of a better and a worse reply -> a trained policy."""

"""Prompts with ranked or scored replies -> trained policy."""

"""Principles and examples -> the policy behind a rewritten prompt."""

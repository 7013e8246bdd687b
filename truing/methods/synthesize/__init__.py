"""Prompts and a judge -> more data."""

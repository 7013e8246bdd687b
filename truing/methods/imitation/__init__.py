"""Demonstrations -> a policy that imitates them."""

"""Ratings -> a policy that has forgotten the replies that were rated low."""

"""Demonstrations -> a policy that has learnt them and kept what it was; and what was lost, given back."""

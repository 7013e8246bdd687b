"""Donors -> one set of weights."""

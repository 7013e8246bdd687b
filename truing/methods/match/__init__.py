"""Donors -> donors in the base's basis."""

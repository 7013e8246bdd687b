"""Truing: align a language model by any method, and measure what it cost."""

__version__ = "0.1.0"

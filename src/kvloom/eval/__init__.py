"""Judges of quality over long contexts."""

"""Traces: requests as the contents that they share, recorded or made."""

"""Measurements: one file per published claim, and the table beside other engines. Not part of the installed package."""

"""The ``kvloom`` command."""

from __future__ import annotations

from kvloom.cli.entry import main

__all__ = ["main"]

"""The bar of what is learned, on standard error."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def profile_bar() -> Progress:
    times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    return Progress(TextColumn("{task.description}"), BarColumn(), *times, console=Console(stderr=True), transient=True)

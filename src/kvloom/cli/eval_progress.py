"""The bar of a run, on standard error."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kvloom.cli.say import say
from kvloom.eval.prompt import Prompt
from kvloom.eval.records import Row
from kvloom.eval.run import Cell


class RunBar:
    """Keeps ``run.Watch``. If the run is interrupted, says that nothing is lost."""

    def __init__(self, prompts: int, place: Path) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bar = Progress(*columns, *times, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("prompts", total=prompts)
        self._place = place
        self.count = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._bar.stop()
        if kind is not None:
            say(f"stopped: {self.count} new answers are kept in {self._place}; run the same command to resume")

    def answered(self, prompt: Prompt, row: Row) -> None:
        self.count += 1
        self._bar.update(self._task, advance=1, description=f"{row.task} {row.length}")

    def skipped(self, cell: Cell, why: str) -> None:
        say(f"{cell.task.name} at {cell.length} is skipped: {why}")


def minutes_text(seconds: float) -> str:
    """
    >>> minutes_text(40), minutes_text(1500)
    ('40 s', '25 min')
    """
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

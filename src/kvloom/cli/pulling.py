"""``kvloom pull``."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from kvloom.cli import backend
from kvloom.cli.say import bytes_text, say


class Bars:
    """One bar per step, on standard error. Keeps ``model.progress.Progress``."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bars = Progress(*columns, console=Console(stderr=True))
        self._step: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._step is not None:
            self._bars.stop()

    def start(self, what: str, total_bytes: int | None) -> None:
        self._bars.start()  # only now: a pull that fails at once draws nothing
        self._step = self._bars.add_task(what, total=total_bytes)

    def advance(self, num_bytes: int) -> None:
        if self._step is not None:
            self._bars.advance(self._step, num_bytes)

    def finish(self) -> None:
        if self._step is not None:
            self._bars.stop_task(self._step)


def pull_model(name: str) -> None:
    """Fetch a model; print where it is."""
    with Bars() as bars:
        manifest = backend.pull(name, bars)
    say(f"{manifest.name} is ready ({manifest.family}, {bytes_text(manifest.size_bytes)})")
    print(manifest.directory)

"""Progress reports of a long job. The command line draws a bar; the library stays silent."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the steps of one job, in order: start, any number of advances, finish; then perhaps the next start."""

    def start(self, what: str, total_bytes: int | None) -> None:
        """A step begins. ``total_bytes`` None: its length is not known."""
        ...

    def advance(self, num_bytes: int) -> None:
        """``num_bytes`` more bytes are done."""
        ...

    def finish(self) -> None:
        """The step is over, successful or not."""
        ...


class Silent:
    """Ignores all progress."""

    def start(self, what: str, total_bytes: int | None) -> None: ...
    def advance(self, num_bytes: int) -> None: ...
    def finish(self) -> None: ...

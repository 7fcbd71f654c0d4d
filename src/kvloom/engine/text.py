"""From token ids to text that is safe to send: whole characters, and nothing that may become a stop string."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class TokenStream(Protocol):
    """Incremental detokenizer of one sequence."""

    def push(self, token_id: int) -> str:
        """Text that is now certain; an incomplete character is held back."""
        ...

    def flush(self) -> str:
        """Whatever is left at the end."""
        ...


@dataclass(slots=True)
class TextState:
    """Accumulates text, finds stop strings, and says what may be released.

    ``unsearched``: tokens, the next ones, in whose text no stop string counts.
    ``pending`` is decoded text that is not released yet because a stop string may have begun in it.
    """

    stream: TokenStream
    stops: tuple[str, ...] = ()
    include_stop: bool = False
    unsearched: int = 0
    pending: str = ""
    stopped_by: str | None = None

    def push(self, token_id: int) -> str:
        """Add a token; return the text to release. Sets ``stopped_by`` when a stop string is complete."""
        if self.unsearched:
            self.unsearched -= 1
            return self.stream.push(token_id)
        if not self.stops:
            return self.stream.push(token_id)
        self.pending += self.stream.push(token_id)
        found = self._earliest_stop()
        if found is not None:
            at, self.stopped_by = found
            released = self.pending[: at + len(self.stopped_by) if self.include_stop else at]
            self.pending = ""
            return released
        keep = self._undecided()
        released, self.pending = (
            self.pending[: len(self.pending) - keep],
            self.pending[len(self.pending) - keep :],
        )
        return released

    def flush(self) -> str:
        """The end: release the rest (nothing when a stop string ended it)."""
        if self.stopped_by is not None:
            return ""
        released, self.pending = self.pending + self.stream.flush(), ""
        return released

    def _earliest_stop(self) -> tuple[int, str] | None:
        hits = [(self.pending.find(stop), stop) for stop in self.stops]
        return min((hit for hit in hits if hit[0] >= 0), default=None)

    def _undecided(self) -> int:
        """Length of the longest tail that is the beginning of a stop string."""
        longest = max(map(len, self.stops)) - 1
        for size in range(min(longest, len(self.pending)), 0, -1):
            tail = self.pending[-size:]
            if any(stop.startswith(tail) for stop in self.stops):
                return size
        return 0

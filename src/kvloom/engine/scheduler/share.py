"""Share: how many rows of new prompts a step computes beside answers that are streaming."""

from __future__ import annotations

from dataclasses import dataclass, field

_SMALLEST_ROWS = 16
"""A prompt always gets this many, or one per stream if that is more: no more than the streams' own share of rows."""

_AIM = 0.75
"""Part of the permitted stretch that is aimed at: single steps scatter around what is aimed at."""

_WEIGHT = 0.25
"""Of the newest step, in running means."""

_GROWTH = 1.5
"""From one step to the next: the cost per row is known only near the number of rows that were tried."""


@dataclass
class PromptShare:
    """Keeps a step beside streams within ``stretch`` times a step without prompts, by what steps have taken so far.

    The trade: a reader sees the text flow on while somebody's long prompt is computed, and the prompt takes about
    ``stretch / (stretch - 1)`` times as long as it would alone. Where prompts outnumber streams, their share of the
    time grows in proportion: nobody waits for a first token so that a few others stay smooth, and under full load
    steps are large. ``stretch`` of infinity gives prompts all rows at once.

    The schedule depends on the clock; what is computed does not: a row's bits do not depend on the chunking.
    """

    stretch: float
    _quiet_s: dict[int, float] = field(default_factory=dict)
    _row_s: float = 0.0
    _tried: int = 0

    def rows(self, streams: int, prompts: int) -> int:
        """Prompt rows for the next step, beside ``streams`` rows, with ``prompts`` sequences in want of them."""
        smallest = max(_SMALLEST_ROWS, streams)
        if not self._quiet_s or not self._row_s:
            return smallest
        extra_s = (self.stretch - 1) * _AIM * self._quiet(streams) * max(1.0, prompts / streams)
        affordable = min(extra_s / self._row_s, _GROWTH * max(self._tried, smallest))
        return max(smallest, int(affordable))

    def took(self, streams: int, prompt_rows: int, seconds: float) -> None:
        """Learn from a step that had at least one stream."""
        if not prompt_rows:
            size = streams.bit_length()
            self._quiet_s[size] = _mean(self._quiet_s.get(size, seconds), seconds)
        elif self._quiet_s:
            row_s = max(0.0, seconds - self._quiet(streams)) / prompt_rows
            self._row_s = _mean(self._row_s or row_s, row_s)
            self._tried = prompt_rows

    def _quiet(self, streams: int) -> float:
        """Seconds of a step without prompts, by powers of two of the streams; where unknown, of the nearest known."""
        size = streams.bit_length()
        return self._quiet_s[min(self._quiet_s, key=lambda known: abs(known - size))]


def _mean(so_far: float, newest: float) -> float:
    return so_far + _WEIGHT * (newest - so_far)

"""Prefill budget: how many rows of new prompts a step computes beside answers that are streaming."""

from __future__ import annotations

from dataclasses import dataclass, field

SIZES = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
"""Rows to choose from. Fewer than the first cost a prompt more than they save streams: a part of what a long prompt
adds to a step does not depend on its rows."""

_AIM = 0.6
"""Part of the permitted slowdown that is aimed at: single steps scatter around what is aimed at."""

_WEIGHT = 0.25
"""Of the newest step, in running means."""

_FADE = 0.995
"""Per step, of what was once too much: it may have been a hiccup, and is tried again after a hundred steps or more."""


@dataclass
class PrefillBudget:
    """Keeps a step beside streams within ``max_decode_slowdown`` times a step without prompts.

    The trade, with s for the slowdown: a reader sees the text flow on while somebody's long prompt is computed, and the
    prompt takes about ``s / (s - 1)`` times as long as it would alone. Where prompts outnumber streams, the budget
    grows in proportion: a crowd does not wait for its first tokens so that a few stay smooth, and under full load steps
    are large. A slowdown of infinity keeps nothing back.

    Nothing is assumed of the machine, everything learned from what steps have taken: the budget climbs through
    ``SIZES`` while the next one should fit, and steps back when a size took too long, as sizes do while a prompt grows.
    The smallest is given in any case. The schedule depends on the clock; what is computed does not: a row's bits do not
    depend on the chunking.
    """

    max_decode_slowdown: float
    _quiet_s: dict[int, float] = field(default_factory=dict)
    _extra_s: list[float | None] = field(default_factory=lambda: [None] * len(SIZES))
    _at: int = 0
    _prompt: str = ""

    def rows(self, streams: int, prompts: int) -> int:
        """Prompt rows for the next step, beside ``streams`` rows, with ``prompts`` sequences in want of them."""
        if self._quiet_s:
            self._move((self.max_decode_slowdown - 1) * _AIM * self._quiet(streams))
        return SIZES[self._at] * max(1, prompts // streams)

    def took(self, streams: int, prompt_rows: int, prompt: str, seconds: float) -> None:
        """Learn from a step with at least one stream. ``prompt`` names the first prompt in it: costs are its own."""
        if not prompt_rows:
            size = streams.bit_length()
            self._quiet_s[size] = _mean(self._quiet_s.get(size), seconds)
            return
        if prompt != self._prompt:
            self._prompt, self._extra_s = prompt, [None] * len(SIZES)
        if self._quiet_s and prompt_rows == SIZES[self._at]:
            extra_s = max(0.0, seconds - self._quiet(streams))
            self._extra_s[self._at] = _mean(self._extra_s[self._at], extra_s)

    def _move(self, limit_s: float) -> None:
        known = self._extra_s[self._at]
        if known is None:
            return
        if known > limit_s:
            self._extra_s[self._at] = min(known, 2 * limit_s)
            self._at = max(0, self._at - 1)
        elif self._at + 1 < len(SIZES):
            above = self._extra_s[self._at + 1]
            expected = known * SIZES[self._at + 1] / SIZES[self._at] if above is None else above * _FADE
            if above is not None:
                self._extra_s[self._at + 1] = expected
            if expected <= limit_s:
                self._at += 1

    def _quiet(self, streams: int) -> float:
        """Seconds of a step without prompts, by powers of two of the streams; where unknown, of the nearest known."""
        size = streams.bit_length()
        return self._quiet_s[min(self._quiet_s, key=lambda known: abs(known - size))]


def _mean(so_far: float | None, newest: float) -> float:
    return newest if so_far is None else so_far + _WEIGHT * (newest - so_far)

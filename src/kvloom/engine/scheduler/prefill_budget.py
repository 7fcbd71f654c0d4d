"""Prefill budget: how many rows of new prompts a step may compute while answers are streaming."""

from __future__ import annotations

from dataclasses import dataclass, field

SIZES = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
"""Possible numbers of rows. Fewer than the first would delay the prompt more than they help the streams: part of the
time that a long prompt adds to a step does not depend on the number of rows."""

_AIM = 0.6
"""Fraction of the permitted slowdown to aim at, because the times of single steps scatter around the target."""

_WEIGHT = 0.25
"""Weight of the newest step in running means."""

_FADE = 0.995
"""Decay per step of a cost that was too high. It may have been an outlier: after 100 steps or more it is retried."""


@dataclass
class PrefillBudget:
    """Limits a step with streams to ``max_decode_slowdown`` times the duration of a step without prompts.

    The trade-off, for a slowdown of s: streams keep flowing while a long prompt is computed, and the prompt takes about
    ``s / (s - 1)`` times as long as it would alone. If there are more prompts than streams, the budget grows in
    proportion, so that many requests do not wait for their first token for the sake of a few smooth streams, and steps
    are large under full load. An infinite slowdown means no limit.

    Nothing is assumed about the machine; costs are learned from the durations of steps. The budget moves up through
    ``SIZES`` while the next size is expected to fit, and down when a size took too long, as happens while a prompt
    grows. The smallest size is always granted. The schedule depends on the clock, but results do not: a row's bits do
    not depend on the chunking.
    """

    max_decode_slowdown: float
    _quiet_s: dict[int, float] = field(default_factory=dict)
    _extra_s: list[float | None] = field(default_factory=lambda: [None] * len(SIZES))
    _at: int = 0
    _prompt: str = ""

    def rows(self, streams: int, prompts: int) -> int:
        """Prompt rows of the next step, which has ``streams`` other rows, if ``prompts`` sequences need some."""
        if self._quiet_s:
            self._move((self.max_decode_slowdown - 1) * _AIM * self._quiet(streams))
        return SIZES[self._at] * max(1, prompts // streams)

    def took(self, streams: int, prompt_rows: int, prompt: str, seconds: float) -> None:
        """Learn from a step with at least one stream. ``prompt``: the first prompt in it; costs are kept per prompt."""
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
        """Seconds of a step without prompts, by the number of streams in powers of two, or of the nearest one known."""
        size = streams.bit_length()
        return self._quiet_s[min(self._quiet_s, key=lambda known: abs(known - size))]


def _mean(so_far: float | None, newest: float) -> float:
    return newest if so_far is None else so_far + _WEIGHT * (newest - so_far)

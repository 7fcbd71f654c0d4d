"""Messages for people: on standard error only, so that standard output stays data."""

from __future__ import annotations

import sys

from kvloom.engine.outputs import RequestMetrics


def say(line: str = "") -> None:
    print(line, file=sys.stderr, flush=True)


def turn_line(prompt_tokens: int, answer_tokens: int, metrics: RequestMetrics) -> str:
    """One line on where a turn's time went: ``412 prompt tokens (396 cached), first token 0.05 s, ...``."""
    lossy = f", {metrics.lossy_tokens} in fewer bits" if metrics.lossy_tokens else ""
    parts = [f"{prompt_tokens} prompt tokens ({metrics.cached_tokens} cached{lossy})"]
    if metrics.ttft_s is not None:
        parts.append(f"first token {metrics.ttft_s:.2f} s")
    times = metrics.token_times_s
    speed = f" at {(len(times) - 1) / (times[-1] - times[0]):.1f}/s" if len(times) > 1 and times[-1] > times[0] else ""
    parts.append(f"{answer_tokens} tokens{speed}")
    return ", ".join(parts)


def bytes_text(size: float) -> str:
    """
    >>> bytes_text(1536), bytes_text(512 * 2**20)
    ('1.5 KiB', '512 MiB')
    """
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = 0
    while size >= 1024 and power < len(units) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.4g} {units[power]}"

"""What is measured of every engine: groups of workloads, full and quick. Each claim names the groups that it needs."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.bench.workloads import MultiTurn, SharedPrefix, Single, Together, Workload

DENSE, HYBRID = "smollm2-135m-instruct", "gemma-3-270m"


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload on one model, in so many rounds at most. ``text``: prompts are of real text, not random tokens."""

    group: str
    model: str
    workload: Workload
    rounds: int
    text: bool = False


def _streams(group: str, model: str, lengths: tuple[int, ...], num_new: int, rounds: int) -> list[Cell]:
    return [Cell(group, model, Single(length, num_new), rounds) for length in lengths]


def cells(groups: frozenset[str], quick: bool) -> list[Cell]:
    """In growing order of the KV they need, per model: what an engine keeps of one weighs little in the next's peak."""
    chosen = [cell for cell in (_QUICK if quick else _FULL) if cell.group in groups]
    return sorted(chosen, key=lambda cell: (cell.model != DENSE, cell.workload.kv_tokens))


_ROUNDS = 5
"""A shared machine's speed changes by half within minutes: one round proves nothing. Only contenders run them all."""

_FULL = [
    *_streams("streams", DENSE, (512, 2048, 4096, 8000), 33, _ROUNDS),
    Cell("streams", DENSE, Single(2048, 33, "of text"), _ROUNDS, text=True),
    Cell("together", DENSE, Together(), _ROUNDS),
    Cell("shared-prefix", DENSE, SharedPrefix(), _ROUNDS),
    Cell("multi-turn", DENSE, MultiTurn(), _ROUNDS),
    *_streams("gemma", HYBRID, (512, 2048, 4096), 33, _ROUNDS),
    Cell("gemma", HYBRID, Together(), _ROUNDS),
]
_QUICK = [
    *_streams("streams", DENSE, (128, 512), 9, 1),
    Cell("streams", DENSE, Single(512, 9, "of text"), 1, text=True),
    Cell("together", DENSE, Together(4, 128, 8), 1),
    Cell("shared-prefix", DENSE, SharedPrefix(4, 256, 16, 8), 1),
    Cell("multi-turn", DENSE, MultiTurn(2, 3, 96, 8), 1),
    *_streams("gemma", HYBRID, (512,), 9, 1),
    Cell("gemma", HYBRID, Together(4, 128, 8), 1),
]
GROUPS = tuple(dict.fromkeys(cell.group for cell in _FULL))

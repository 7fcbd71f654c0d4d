"""What is measured of every engine: groups of workloads, full and quick. Each claim names the groups that it needs."""

from __future__ import annotations

from dataclasses import dataclass

from kvloom.bench.workloads import MultiTurn, SharedPrefix, Single, Together, Workload

DENSE, HYBRID = "smollm2-135m-instruct", "gemma-3-270m"


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload on one model, in so many rounds. ``text``: prompts are of real text, not random tokens."""

    group: str
    model: str
    workload: Workload
    rounds: int
    text: bool = False


def _streams(group: str, model: str, lengths: dict[int, int], num_new: int) -> list[Cell]:
    return [Cell(group, model, Single(length, num_new), rounds) for length, rounds in lengths.items()]


def cells(groups: frozenset[str], quick: bool) -> list[Cell]:
    """In growing order of the KV they need, per model: what an engine keeps of one weighs little in the next's peak."""
    chosen = [cell for cell in (_QUICK if quick else _FULL) if cell.group in groups]
    return sorted(chosen, key=lambda cell: (cell.model != DENSE, cell.workload.kv_tokens))


# Rounds are chosen for about half an hour with five engines on two cores; a prompt of 8000 takes the slowest a minute.
_FULL = [
    *_streams("streams", DENSE, {512: 3, 2048: 2, 4096: 1, 8000: 1}, 33),
    Cell("streams", DENSE, Single(2048, 33, "of text"), 1, text=True),
    Cell("together", DENSE, Together(), 1),
    Cell("shared-prefix", DENSE, SharedPrefix(), 1),
    Cell("multi-turn", DENSE, MultiTurn(), 1),
    *_streams("gemma", HYBRID, {512: 2, 2048: 1, 4096: 1}, 33),
    Cell("gemma", HYBRID, Together(), 1),
]
_QUICK = [
    *_streams("streams", DENSE, {128: 1, 512: 1}, 9),
    Cell("streams", DENSE, Single(512, 9, "of text"), 1, text=True),
    Cell("together", DENSE, Together(4, 128, 8), 1),
    Cell("shared-prefix", DENSE, SharedPrefix(4, 256, 16, 8), 1),
    Cell("multi-turn", DENSE, MultiTurn(2, 3, 96, 8), 1),
    *_streams("gemma", HYBRID, {512: 1}, 9),
    Cell("gemma", HYBRID, Together(4, 128, 8), 1),
]
GROUPS = tuple(dict.fromkeys(cell.group for cell in _FULL))

"""What is measured of every engine: groups of workloads, full and quick. Each claim names the groups that it needs.

A group's cells are all of one model. Models come in sizes; those above small have random weights in real shapes
(``bench.random_models``), and are measured when asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvloom.bench.workloads import MultiTurn, SharedPrefix, Single, Together, Workload

DENSE, HYBRID = "smollm2-135m-instruct", "gemma-3-270m"
OF_1B, OF_1B_Q4_0 = "random-llama-3.2-1b-q4_k_m", "random-llama-3.2-1b-q4_0"
OF_3B, OF_8B = "random-llama-3.2-3b-q4_k_m", "random-llama-3.1-8b-q4_k_m"

SIZES = {"small": (DENSE, HYBRID), "1b": (OF_1B, OF_1B_Q4_0), "3b": (OF_3B,), "8b": (OF_8B,)}
"""Models by size, in the order in which they are measured. An hour is about what the small ones take."""
DEFAULT_SIZES = ("small",)
_MODELS = [model for models in SIZES.values() for model in models]


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload on one model, in so many rounds at most.

    text: prompts are of real text, not random tokens; alone: one engine is in memory at a time, because the model is
    too large for several. Then only the rounds of one engine are close in time.
    """

    group: str
    model: str
    workload: Workload
    rounds: int
    text: bool = False
    alone: bool = False


def _streams(group: str, model: str, lengths: tuple[int, ...], num_new: int, rounds: int) -> list[Cell]:
    return [Cell(group, model, Single(length, num_new), rounds) for length in lengths]


def cells(groups: frozenset[str], quick: bool, sizes: Sequence[str] = DEFAULT_SIZES) -> list[Cell]:
    """In growing order of the KV they need, per model: what an engine keeps of one weighs little in the next's peak."""
    models = {model for size in sizes for model in SIZES[size]}
    chosen = [cell for cell in (_QUICK if quick else _FULL) if cell.group in groups and cell.model in models]
    return sorted(chosen, key=lambda cell: (_MODELS.index(cell.model), cell.workload.kv_tokens))


_ROUNDS, _LARGE_ROUNDS = 5, 3
"""A shared machine's speed changes by half within minutes: one round proves nothing. Only contenders run them all."""

_FULL = [
    *_streams("streams", DENSE, (512, 2048, 4096, 8000), 33, _ROUNDS),
    Cell("streams", DENSE, Single(2048, 33, "of text"), _ROUNDS, text=True),
    Cell("together", DENSE, Together(), _ROUNDS),
    Cell("shared-prefix", DENSE, SharedPrefix(), _ROUNDS),
    Cell("multi-turn", DENSE, MultiTurn(), _ROUNDS),
    *_streams("gemma", HYBRID, (512, 2048, 4096), 33, _ROUNDS),
    Cell("gemma", HYBRID, Together(), _ROUNDS),
    *_streams("streams-1b", OF_1B, (512, 2048), 33, _LARGE_ROUNDS),
    Cell("together-1b", OF_1B, Together(8, 256, 32), _LARGE_ROUNDS),
    *_streams("streams-1b-q4_0", OF_1B_Q4_0, (512, 2048), 33, _LARGE_ROUNDS),
    Cell("together-1b-q4_0", OF_1B_Q4_0, Together(8, 256, 32), _LARGE_ROUNDS),
    *_streams("streams-3b", OF_3B, (512, 2048), 33, _LARGE_ROUNDS),
    Cell("together-3b", OF_3B, Together(8, 256, 32), _LARGE_ROUNDS),
    Cell("streams-8b", OF_8B, Single(512, 17), _LARGE_ROUNDS, alone=True),
]
_QUICK = [
    *_streams("streams", DENSE, (128, 512), 9, 1),
    Cell("streams", DENSE, Single(512, 9, "of text"), 1, text=True),
    Cell("together", DENSE, Together(4, 128, 8), 1),
    Cell("shared-prefix", DENSE, SharedPrefix(4, 256, 16, 8), 1),
    Cell("multi-turn", DENSE, MultiTurn(2, 3, 96, 8), 1),
    *_streams("gemma", HYBRID, (512,), 9, 1),
    Cell("gemma", HYBRID, Together(4, 128, 8), 1),
    *_streams("streams-1b", OF_1B, (128,), 9, 1),
    Cell("together-1b", OF_1B, Together(4, 32, 4), 1),
    *_streams("streams-1b-q4_0", OF_1B_Q4_0, (128,), 9, 1),
    Cell("together-1b-q4_0", OF_1B_Q4_0, Together(4, 32, 4), 1),
    *_streams("streams-3b", OF_3B, (128,), 5, 1),
    Cell("together-3b", OF_3B, Together(2, 32, 4), 1),
    Cell("streams-8b", OF_8B, Single(32, 5), 1, alone=True),
]
GROUPS = tuple(dict.fromkeys(cell.group for cell in _FULL))

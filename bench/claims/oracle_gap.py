"""oracle-gap: the policy ``survival`` closes at least half of LRU's distance to a clairvoyant oracle, over all traces.

Seconds of recomputing in a replay of the policies alone (``bench.retention_sim``), with pools of 20, 40 and 60% of what
an endless cache would hold at the busiest moment. Each trace and pool counts by how far LRU is from the oracle there,
as a share of LRU's seconds. Losses are listed: where the policy recomputes for longer than LRU does.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.harness import Check, Outcome, at_least, note, worst_of
from bench.retention_cases import RECORDED, Case, made, recorded, traces_directory
from bench.retention_sim import Cell, Replay, closed, measured

POLICY = "survival"
GOAL = 0.5
SHARES = (0.2, 0.4, 0.6)


def cells_of(cases: list[Case]) -> Iterator[Cell]:
    for case in cases:
        replays = [Replay(trace, case.cost) for trace in case.traces()]
        for cell in measured(case.name, replays, ["lru", POLICY], SHARES):
            note(f"{case.name}, {cell.share:.0%}: {cell.closed(POLICY):.2f} closed, {cell.ratio(POLICY):.2f} times LRU")
            yield cell


def outcome_of(cells: list[Cell], quick: bool, checks: list[Check]) -> Outcome:
    each = {
        f"{cell.case}, {cell.share:.0%}": {
            "closed": round(cell.closed(POLICY), 3),
            "lru_over_own": round(cell.ratio(POLICY), 3),
            "lru_over_oracle": round(cell.ratio("oracle"), 3),
        }
        for cell in cells
    }
    losses = [name for name, cell in zip(each, cells, strict=True) if cell.ratio(POLICY) < 1]
    remark = f"worse than LRU in {len(losses)} of {len(cells)} cells"
    share = at_least("LRU's distance to the oracle", closed(cells, POLICY), GOAL, "of it closed", remark)
    return worst_of("oracle-gap", [share, *checks], {"quick": quick, "losses": losses, "each": each})


def measure(quick: bool) -> Outcome:
    """Full: also the recorded traces in ``TRACES_DIR``, all of which must be there. Quick: short made ones."""
    if quick:
        return outcome_of(list(cells_of([*made(1, sessions=60, tasks=24)])), quick, [])
    read = list(recorded(traces_directory()))
    complete = at_least("recorded cases", len(read), RECORDED, "cases", "read from TRACES_DIR")
    return outcome_of(list(cells_of([*made(2), *read])), quick, [complete])

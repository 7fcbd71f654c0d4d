"""All retention policies side by side, on the engine's own scheduler, ledger and policies under a simulated clock.

    python -m bench.policies --place DIR [--costs-only] [--kinds made,mooncake,agents] [--seeds 5] [--policies lru]

Made: conversations of 2K to 8K tokens and agents, served by SmolLM2 on this machine, whose steps are measured first and
kept in DIR (``--costs-only``: nothing but that, on a quiet machine); memory for 20, 40 and 60% of the working set (60%
for agents, of whom two of the longest contexts must fit), and requests that arrive so fast that an engine with an
endless cache would be busy for a quarter of the time. Recorded: the files in ``TRACES_DIR``, served by Llama 3.1 8B on
an H100 by its data sheet, with half of its memory for KV. Every simulation is written below DIR when it ends, and not
repeated; the table of all is filed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.claims.simulator import LOAD, busy_s, step_cost
from bench.drive import ModelEngines
from bench.filing import Stamp, folder_for, write_files
from bench.harness import note
from bench.retention_cases import AGENTS, traces_directory
from bench.retention_gaps import Gaps, capacity
from kvloom.config import DEFAULT_KV_DTYPE, CacheConfig, EngineConfig
from kvloom.engine.build import build
from kvloom.engine.layout import KvLayout
from kvloom.memory.format import PAGE_TOKENS
from kvloom.model.files.store import pull
from kvloom.policy.cost import PrefillCost
from kvloom.policy.retention import POLICIES
from kvloom.simulate.machines import MACHINES, Machine
from kvloom.simulate.model import Shape
from kvloom.simulate.simulation import Setting, simulate
from kvloom.simulate.step_cost import StepCost
from kvloom.simulate.traces.made_agents import MadeAgents
from kvloom.simulate.traces.mooncake import mooncake
from kvloom.simulate.traces.multi_turn import HIGH_DISPERSION, LOW_DISPERSION, MultiTurn
from kvloom.simulate.traces.recorded_agents import RecordedAgents
from kvloom.simulate.traces.trace import Trace

MODEL = "smollm2-135m-instruct"
SHARES = (0.2, 0.4, 0.6)
LENGTHS = (2048, 7680)
"""Of conversations, without what they share."""

COARSE = 32 * PAGE_TOKENS
"""Tokens of a block of the recorded traces, whose contexts are long."""

MOST, MOST_OF_AGENTS = 3000, 1000
"""Requests of a recorded trace: the first ones. Those of agents have 65,000 tokens on average."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A trace, what serves it, how fast it arrives, and bytes for KV."""

    kind: str
    trace: Trace
    machine: Machine
    speed: float
    room: str
    kv_bytes: int

    def key(self, policy: str) -> str:
        return f"{self.kind}/{self.trace.name}/{self.room}/{policy}"


def costs_at(place: Path) -> StepCost:
    """Of SmolLM2 on this machine: as they were measured, or measured now."""
    file = place / "costs.json"
    if not file.exists():
        engines = ModelEngines(build(EngineConfig(model=MODEL, cache=CacheConfig(kv_bytes="256MiB"))), DEFAULT_KV_DTYPE)
        file.write_text(json.dumps(dataclasses.asdict(step_cost(engines))), encoding="utf-8")
    found = json.loads(file.read_text(encoding="utf-8"))
    return StepCost(PrefillCost(**found["prefill"]), PrefillCost(**found["decode"]), found["steps"], found["rows"])


def made(place: Path, seeds: int) -> Iterator[Cell]:
    cost = costs_at(place)
    model = build(EngineConfig(model=MODEL, cache=CacheConfig(kv_bytes="64MiB"))).engine.model
    shape = Shape(model.kv_map, model.query_heads, model.layer_parameters, model.context_length, model.weights_id)
    machine = Machine(MODEL, shape, cost, DEFAULT_KV_DTYPE, 0)
    layout = KvLayout(shape.kv_map, CacheConfig(kv_dtype=DEFAULT_KV_DTYPE), machine.scheduler.step_tokens)
    talks = [MultiTurn(sessions=16, lengths=LENGTHS, dispersion=by) for by in (LOW_DISPERSION, HIGH_DISPERSION)]
    agents = MadeAgents(tasks=14, calls=(3, 8), questions=(1, 3), answer_tokens=32, arrival_s=8.0)
    for seed in range(seeds):
        for kind, trace, shares in (
            ("conversations", talks[seed % 2].trace(seed), SHARES),
            ("agents", agents.trace(seed), SHARES[-1:]),
        ):
            speed = LOAD * trace.requests[-1].arrival_s / busy_s(trace, cost)
            for share in shares:
                blocks = max(capacity(trace, Gaps.of(trace), share), 2 * trace.longest)
                room = layout.bytes_for(PAGE_TOKENS * blocks)
                yield Cell(kind, trace, machine, speed, f"{share:.0%} of the working set", room)


_Source = tuple[str, Trace, float]
"""What it is, and how much faster than recorded it arrives: as fast as one machine keeps up with."""


def mooncakes(directory: Path) -> Iterator[_Source]:
    for kind, speed in (("conversation", 0.2), ("synthetic", 0.15)):
        yield f"mooncake {kind}", mooncake(directory / f"mooncake_{kind}_trace.jsonl", COARSE, MOST), speed


def recorded_agents(directory: Path) -> Iterator[_Source]:
    for users in (4, 16, 64):
        trace = RecordedAgents(directory / AGENTS, users, 2).trace(COARSE)
        yield f"recorded agents, {users} users", trace.head(MOST_OF_AGENTS), min(1.0, 8 / users)


def recorded(sources: Iterable[_Source]) -> Iterator[Cell]:
    machine = MACHINES["llama-8b-h100"]()
    size = machine.kv_bytes // 2
    for kind, trace, speed in sources:
        yield Cell(kind, trace, machine, speed, f"{size / 2**30:.0f} GiB", size)


Found = dict[str, dict[str, Any]]
"""Summaries as JSON has them, by cell and policy."""


def simulated(cells: Sequence[Cell], policies: Sequence[str], place: Path) -> Found:
    """What is missing is simulated now, one line of the record each."""
    record = place / "simulated.jsonl"
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    found: Found = dict(json.loads(line) for line in lines)
    with record.open("a", encoding="utf-8") as file:
        for cell in cells:
            for policy in policies:
                key = cell.key(policy)
                if key in found:
                    continue
                found[key] = dataclasses.asdict(
                    simulate(cell.trace, cell.machine, Setting(policy, cell.kv_bytes), cell.speed)  # type: ignore[arg-type]
                )
                file.write(json.dumps([key, found[key]]) + "\n")
                file.flush()
                note(f"{key}: first token {found[key]['ttft']['mean']:.3f} s")
    return found


def table(cells: Sequence[Cell], policies: Sequence[str], found: Found) -> str:
    """A row for every kind, room and policy: means over its traces."""
    grouped: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        grouped[cell.kind, cell.room].append(cell)
    rows = [
        "| trace | KV memory | policy | TTFT, s | LRU over it | p95, s | TPOT, ms | recomputed, s | found | saved |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (kind, room), group in grouped.items():
        name = f"{kind}, {len(group)} seeds" if len(group) > 1 else kind
        for policy in policies:
            rows.append(f"| {name} | {room} | {policy} | {_line(group, policy, found)} |")
        ends = [found[cell.key(policies[0])] for cell in group]
        hits, saved = (statistics.mean(each[of] for each in ends) for of in ("endless_block_hits", "endless_saved"))
        rows.append(f"| {name} | {room} | without limits | | | | | | {hits:.1%} | {saved:.1%} |")
    return "\n".join(rows)


def _line(group: Sequence[Cell], policy: str, found: Found) -> str:
    own, lru = ([found[cell.key(name)] for cell in group] for name in (policy, "lru"))
    ratio = statistics.geometric_mean(a["ttft"]["mean"] / b["ttft"]["mean"] for a, b in zip(lru, own, strict=True))
    mean, p95 = (statistics.mean(each["ttft"][of] for each in own) for of in ("mean", "p95"))
    tpot, again, hits, saved = (
        statistics.mean(each[of] for each in own) for of in ("tpot_s", "recompute_s", "block_hits", "saved")
    )
    return f"{mean:.3f} | {ratio:.2f} | {p95:.3f} | {1e3 * tpot:.1f} | {again:,.1f} | {hits:.1%} | {saved:.1%}"


def over_all(cells: Sequence[Cell], policies: Sequence[str], found: Found) -> str:
    """Every kind and room counts once."""
    rows = ["| policy | LRU's mean TTFT over it, geometric mean | worse than LRU by over 2% |", "|---|---|---|"]
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.kind, cell.room].append(cell)
    for policy in policies:
        ratios = {
            name: statistics.geometric_mean(
                found[cell.key("lru")]["ttft"]["mean"] / found[cell.key(policy)]["ttft"]["mean"] for cell in group
            )
            for name, group in groups.items()
        }
        worse = "; ".join(f"{kind}, {room} ({ratio:.2f})" for (kind, room), ratio in ratios.items() if ratio < 0.98)
        rows.append(f"| {policy} | {statistics.geometric_mean(ratios.values()):.3f} | {worse} |")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--costs-only", action="store_true")
    parser.add_argument("--kinds", default="made,mooncake,agents")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--out", type=Path, help="folder; by default one under bench/results")
    asked = parser.parse_args(arguments)
    asked.place.mkdir(parents=True, exist_ok=True)
    pull(MODEL)
    if asked.costs_only:
        print(costs_at(asked.place))
        return
    kinds, policies = asked.kinds.split(","), asked.policies.split(",")
    cells = [
        *(made(asked.place, asked.seeds) if "made" in kinds else ()),
        *(recorded(mooncakes(traces_directory())) if "mooncake" in kinds else ()),
        *(recorded(recorded_agents(traces_directory())) if "agents" in kinds else ()),
    ]
    found = simulated(cells, policies, asked.place)
    stamp = Stamp.now(f"python -m bench.policies --place DIR --kinds {asked.kinds}")
    parts = [
        "# Retention policies side by side",
        f"    {stamp.command}",
        "Simulated: the engine's scheduler, ledger and policies, and steps that take what was measured (made traces: "
        f"{MODEL} here) or what a data sheet promises (recorded traces: Llama 3.1 8B on an H100). Recorded requests "
        "arrive as recorded, or as much more slowly as one such machine keeps up with: Mooncake's at a fifth and 0.15 "
        "of their pace, agents of 16 and 64 users at a half and an eighth.",
        f"{stamp.hardware}, {stamp.threads} threads, {stamp.taken}.",
        over_all(cells, policies, found),
        table(cells, policies, found),
    ]
    keys = [cell.key(policy) for cell in cells for policy in policies]
    data = json.dumps({"stamp": dataclasses.asdict(stamp), "found": {key: found[key] for key in keys}}, indent=1)
    print(
        write_files(
            asked.out or folder_for(stamp), "retention-side-by-side", "\n\n".join(parts) + "\n", data + "\n", None
        )
    )


if __name__ == "__main__":
    main()

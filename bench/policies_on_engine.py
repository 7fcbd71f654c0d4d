"""All retention policies side by side on the real engine: the traces of the claim ``asymcache-ttft``, every policy.

    python -m bench.policies_on_engine --place DIR [--traces 5] [--policies lru,survival]

SmolLM2, conversations of 2K to 8K tokens, KV memory for 40% of the working set. What a policy made of a trace is
written below DIR when it ends and not repeated, so that a quiet machine is needed for a minute or two at a time only;
the table of all that is complete is filed. Costs are measured once, so that all policies get the same requests.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean, mean
from typing import Any

import numpy as np

from bench.claims.asymcache_ttft import MODEL, SHARE, Served, room_of, served, traces
from bench.claims.simulator import arriving
from bench.drive import ModelEngines
from bench.filing import Stamp, folder_for, write_files
from bench.harness import note
from bench.policies import costs_at
from kvloom.config import DEFAULT_KV_DTYPE, CacheConfig, EngineConfig
from kvloom.engine.build import build
from kvloom.model.files.store import pull
from kvloom.policy.retention import POLICIES

Line = dict[str, float]
"""Of one policy and trace: seconds and shares by name."""


def line_of(result: Served) -> Line:
    return {
        "ttft_s": float(np.mean(result.ttft_s)),
        "ttft_p95_s": float(np.percentile(result.ttft_s, 95)),
        "tpot_s": float(np.mean(result.tpot_s)),
        "recompute_s": result.recompute_s,
        "found": result.cached / result.asked,
    }


def measured(place: Path, count: int, policies: Sequence[Any]) -> dict[str, dict[str, Line]]:
    """By trace and policy: what is on record, and what is missing of it, which is measured now."""
    pull(MODEL)
    engines = ModelEngines(build(EngineConfig(model=MODEL, cache=CacheConfig(kv_bytes="256MiB"))), DEFAULT_KV_DTYPE)
    cost, record = costs_at(place), place / "on-engine.jsonl"
    known: list[tuple[str, str, Line]] = [
        tuple(json.loads(line)) for line in (record.read_text("utf-8").splitlines() if record.exists() else ())
    ]
    found: dict[str, dict[str, Line]] = {}
    for name, policy, line in known:
        found.setdefault(name, {})[policy] = line
    with record.open("a", encoding="utf-8") as file:
        for number, trace in enumerate(traces(quick=False)[:count]):
            name = f"{trace.name}, {number}"
            for policy in policies:
                if policy in found.setdefault(name, {}):
                    continue
                asked = arriving(trace, cost, engines.loaded.engine.model.vocab_size)
                result = served(engines, policy, asked, room_of(engines, trace), cost.prefill)
                found[name][policy] = line_of(result)
                file.write(json.dumps([name, policy, found[name][policy]]) + "\n")
                file.flush()
                note(f"{name}, {policy}: {result.line()}")
    return found


def table(found: dict[str, dict[str, Line]], policies: Sequence[str]) -> str:
    """A row for every policy that has served all traces."""
    rows = [
        "| policy | LRU's mean TTFT over it | by trace | TTFT, s | p95, s | TPOT, ms | recomputed, s | found |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for policy in policies:
        if any(policy not in each for each in found.values()):
            continue
        ratios = [each["lru"]["ttft_s"] / each[policy]["ttft_s"] for each in found.values()]
        ttft_s, p95_s, tpot_s, recompute_s, share = (
            mean(each[policy][of] for each in found.values())
            for of in ("ttft_s", "ttft_p95_s", "tpot_s", "recompute_s", "found")
        )
        each_said = " ".join(f"{ratio:.2f}" for ratio in ratios)
        rows.append(
            f"| {policy} | {geometric_mean(ratios):.2f} | {each_said} | {ttft_s:.3f} | {p95_s:.3f} "
            f"| {1e3 * tpot_s:.1f} | {recompute_s:.1f} | {share:.1%} |"
        )
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--traces", type=int, default=5)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--out", type=Path, help="folder; by default one under bench/results")
    asked = parser.parse_args(arguments)
    asked.place.mkdir(parents=True, exist_ok=True)
    policies = asked.policies.split(",")
    found = measured(asked.place, asked.traces, policies)
    stamp = Stamp.now(f"python -m bench.policies_on_engine --place DIR --traces {asked.traces}")
    parts = [
        "# Retention policies side by side, on the real engine",
        f"    {stamp.command}",
        f"{MODEL}, {asked.traces} traces of ten conversations of 2K to 8K tokens, KV memory for {SHARE:.0%} of the "
        "working set, requests so fast that an engine with an endless cache would be busy for a quarter of the time.",
        f"{stamp.hardware}, {stamp.threads} threads, {stamp.taken}.",
        table(found, policies),
    ]
    data = json.dumps({"stamp": dataclasses.asdict(stamp), "found": found}, indent=1)
    folder = asked.out or folder_for(stamp)
    print(write_files(folder, "retention-on-the-engine", "\n\n".join(parts) + "\n", data + "\n", None))


if __name__ == "__main__":
    main()

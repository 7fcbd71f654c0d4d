"""From runs to Markdown and JSON: medians with their spread, and how far each is from what the machine can do."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from statistics import median
from typing import Any

CAVEATS = (
    "Ratios between engines of one table may be quoted; the absolute figures of a small, shared machine may not.",
    "Every figure is the median of the rounds; the spread is from the worst to the best.",
    "kvloom runs the weights as they are in the file and keeps KV in float16; transformers has no kernels for such "
    "weights on a CPU and runs them in float32. The table compares what a user gets from one file, not kernels.",
    "Prompts are random tokens, decoding is greedy and runs to its full length. Decode is timed from streamed tokens.",
    "The limit of decode is weights (the output layer included) and KV read once per token at the measured bandwidth; "
    "that of prefill is the arithmetic of the layers and of attention at the measured sgemm rate.",
    "Peak memory is that of the engine's whole process over all workloads, with the KV that it touched.",
)


@dataclass(frozen=True, slots=True)
class Run:
    """One process's output: records with a ``kind``. ``who``: a peer, or ``limits``."""

    who: str
    round: int
    records: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["kind"] == kind]


@dataclass(frozen=True, slots=True)
class Table:
    """Everything that is filed."""

    command: str
    hardware: str
    threads: int
    model: str
    quick: bool
    taken: str
    runs: list[Run]

    @property
    def peers(self) -> list[str]:
        return list(dict.fromkeys(run.who for run in self.runs if run.who != "limits"))

    def values(self, peer: str, workload: str) -> list[float]:
        return [
            f["value"] for run in self.runs if run.who == peer for f in run.of("figure") if f["workload"] == workload
        ]

    def about(self, peer: str) -> dict[str, Any]:
        """Version and sizes, as the peer's first run said."""
        about: dict[str, Any] = next(run.of("peer")[0] for run in self.runs if run.who == peer)
        return about

    def peak_bytes(self, peer: str) -> float:
        return median(float(run.of("peak")[0]["rss_bytes"]) for run in self.runs if run.who == peer)

    @property
    def read_gb_s(self) -> float:
        return max(float(limit["read_gb_s"]) for run in self.runs for limit in run.of("limits"))

    @property
    def sgemm_gflop_s(self) -> float:
        return max(float(limit["sgemm_gflop_s"]) for run in self.runs for limit in run.of("limits"))

    def share_of_limit(self, peer: str, workload: str) -> float | None:
        """Decode: bytes read per second over the read bandwidth; prefill: FLOP/s over sgemm's. None for the others."""
        found = re.fullmatch(r"(decode after|prefill) (\d+)", workload)
        if found is None:
            return None
        about, rate, length = self.about(peer), median(self.values(peer, workload)), int(found[2])
        if found[1] == "prefill":
            return rate * float(about["prefill_flop"][found[2]]) / length / 1e9 / self.sgemm_gflop_s
        token_bytes = float(about["weight_bytes"] + length * about["kv_token_bytes"])
        return rate * token_bytes / 1e9 / self.read_gb_s


def to_json(table: Table) -> str:
    return json.dumps(dataclasses.asdict(table), indent=1) + "\n"


def to_markdown(table: Table) -> str:
    first = table.peers[0]
    figures = next(run for run in table.runs if run.who == first).of("figure")
    lines = [
        "# Engines side by side",
        "",
        f"    {table.command}",
        "",
        *(
            ["**Quick run: short prompts, one round. It shows that the harness works and nothing else.**", ""]
            * table.quick
        ),
        *(f"- {caveat}" for caveat in CAVEATS),
        "",
        f"{table.hardware}, {table.threads} threads; model `{table.model}`; {table.taken}. "
        f"Limits in the same run: memory read {table.read_gb_s:.1f} GB/s, sgemm {table.sgemm_gflop_s:.0f} GFLOP/s.",
        "",
        "| workload | unit | " + " | ".join(table.peers) + " |",
        "|---|---|" + "---|" * len(table.peers),
        *(_row(table, figure) for figure in figures),
        "| peak memory | MiB | " + " | ".join(f"{table.peak_bytes(peer) / 2**20:.0f}" for peer in table.peers) + " |",
        "",
        *(f"- {peer}: {table.about(peer)['version']}" for peer in table.peers),
    ]
    return "\n".join(lines) + "\n"


def _row(table: Table, figure: dict[str, Any]) -> str:
    workload = figure["workload"]
    cells = [_cell(table.values(peer, workload), table.share_of_limit(peer, workload)) for peer in table.peers]
    return f"| {workload} | {figure['unit']} | " + " | ".join(cells) + " |"


def _cell(values: list[float], share: float | None) -> str:
    limit = "" if share is None else f", {share:.0%} of limit"
    spread = f"{min(values):.1f} to {max(values):.1f}" if len(values) > 1 else "one run"
    return f"**{median(values):.1f}** ({spread}{limit})"

"""The table beside other engines: ``python -m bench.table [--quick]`` (``make bench``).

Every peer runs in a process of its own, the peers take turns, and the machine's limits are measured in every round:
what disturbs one disturbs all. Writes ``bench/results/<hardware>/<year-month>/engines.{md,json}``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.harness import note
from bench.limits import processor, slug
from bench.peers.base import PEERS
from bench.report import Run, Table, to_json, to_markdown
from kvloom.config import default_threads
from kvloom.model.store import pull

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.table")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated, from: " + ", ".join(PEERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--quick", action="store_true", help="short prompts and one round: shows that it runs, no more")
    parser.add_argument("--out", type=Path, help="folder; by default one under bench/results")
    options = parser.parse_args(arguments)
    peers = options.peers.split(",")
    unknown = [peer for peer in peers if peer not in PEERS]
    if unknown or options.rounds < 1:
        print(f"error: no peer `{unknown[0]}`" if unknown else "error: rounds must be at least 1", file=sys.stderr)
        print(f"hint: there are {', '.join(PEERS)}", file=sys.stderr)
        return 2
    pull(options.model)
    rounds = 1 if options.quick else options.rounds
    table = Table(
        command=f"python -m bench.table {' '.join(sys.argv[1:] if arguments is None else arguments)}".strip(),
        hardware=processor(),
        threads=options.threads,
        model=options.model,
        quick=options.quick,
        taken=datetime.now(UTC).isoformat(timespec="minutes"),
        runs=measure(peers, rounds, options.model, options.threads, options.quick),
    )
    folder = options.out or _folder(table)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "engines.md").write_text(to_markdown(table), encoding="utf-8")
    (folder / "engines.json").write_text(to_json(table), encoding="utf-8")
    note(f"written to {folder}")
    print(to_markdown(table))
    return 0


def measure(peers: Sequence[str], rounds: int, model: str, threads: int, quick: bool) -> list[Run]:
    """Interleaved: limits, then each peer once; the order of the peers turns with every round."""
    runs = []
    for number in range(rounds):
        turn = number % len(peers)
        for who in ["limits", *peers[turn:], *peers[:turn]]:
            note(f"round {number + 1} of {rounds}: {who}")
            runs.append(Run(who, number, _worker(who, number, model, threads, quick)))
    return runs


def _worker(who: str, seed: int, model: str, threads: int, quick: bool) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "bench.worker", who, "--model", model, "--threads", str(threads)]
    command += ["--seed", str(seed), *(["--quick"] if quick else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parent.parent)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"kind"')]


def _folder(table: Table) -> Path:
    name = slug(f"{table.hardware} {table.threads} threads") + ("-quick" if table.quick else "")
    return RESULTS / name / table.taken[:7]


if __name__ == "__main__":
    sys.exit(main())

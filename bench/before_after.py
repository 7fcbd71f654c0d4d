"""This checkout beside another one, such as the commit before a change: ``python -m bench.before_after OTHER``.

Both run in processes of their own, asleep while the other works. They take turns, and which of them begins alternates.
Which of them is loaded first matters too, by a percent and more: it gets other memory. So there are two sittings, each
with the other order of loading, and half of the pairs. A figure is the median over the pairs of this checkout's rate as
a share of the other's, so 1.01 is one percent more per second. OTHER is a checkout with an environment of its own
(``make venv``).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from bench.claims.server_overhead import stream_all
from bench.filing import Stamp, folder_for, write_files
from bench.harness import note
from bench.remote import HERE, Checkout, RemotePeer, setup_of
from bench.served import Served
from bench.text import long_text
from kvloom.bench.workloads import Figure, Single, Together, Workload, random_tokens
from kvloom.config import default_threads
from kvloom.model.files.loading import load_tokenizer
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"
VOCABULARY = 49_000
WORKLOADS: tuple[Workload, ...] = (Single(512, 65), Single(2048, 33), Single(8000, 33), Together())
QUICK: tuple[Workload, ...] = (Single(128, 9), Together(4, 64, 8))
STREAMS, PROMPT, NUM_NEW = 32, 64, 64


@dataclass(frozen=True, slots=True)
class Pair:
    """One figure of one pair of turns."""

    figure: str
    unit: str
    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


class Side:
    """One checkout: its library and its server."""

    def __init__(self, checkout: Checkout, workloads: Sequence[Workload], stack: ExitStack) -> None:
        checkout.pull(MODEL)
        capacity = max((workload.kv_tokens for workload in workloads), default=0) + 1024
        setup = setup_of(pull(MODEL), default_threads(), capacity)
        self.library = RemotePeer("kvloom", checkout.python, setup, checkout)
        stack.callback(self.library.close)
        self.server = stack.enter_context(Served(MODEL, "--threads", str(default_threads()), checkout=checkout))
        self.server.pause()

    def figures(self, seed: int, workload: Workload) -> list[Figure]:
        before = self.library.counters()
        found = workload.measure(self.library, random_tokens(VOCABULARY, seed))
        after = self.library.counters()
        return [*found, _steps_outside_of_the_model(workload, before, after)]

    def streams(self, _: int, prompts: list[list[int]]) -> list[Figure]:
        self.server.resume()
        self.server.reset_cache()
        seconds = uvloop.run(stream_all(self.server, prompts, NUM_NEW))
        self.server.pause()
        return [Figure(f"{len(prompts)} HTTP streams", len(prompts) * NUM_NEW / seconds, "out tok/s")]


def _steps_outside_of_the_model(workload: Workload, before: dict[str, Any], after: dict[str, Any]) -> Figure:
    """Steps per second of what is not the model: scheduling, planning, sampling, commit."""
    phases = [name for name in after["seconds"] if name != "forward"]
    seconds = sum(after["seconds"][name] - before["seconds"][name] for name in phases)
    return Figure(f"steps outside of the model, {workload.name}", (after["steps"] - before["steps"]) / seconds, "1/s")


def sittings(other: Checkout, workloads: Sequence[Workload], count: int) -> Iterator[Pair]:
    """``count`` pairs of every figure, one half with this checkout loaded first, the rest with ``other``."""
    halves = (count - count // 2, count // 2)
    for half, order in zip(halves, ((HERE, other), (other, HERE)), strict=True):
        if half:
            with ExitStack() as stack:
                sides = {checkout: Side(checkout, workloads, stack) for checkout in order}
                yield from pairs(sides[HERE], sides[other], workloads, half)


def pairs(ours: Side, theirs: Side, workloads: Sequence[Workload], count: int) -> Iterator[Pair]:
    """``count`` pairs of every figure, after one that warms both up."""
    text = load_tokenizer(pull(MODEL)).encode(long_text())
    prompts = [text[n * 7 : n * 7 + PROMPT] for n in range(STREAMS)]
    turns: list[Callable[[Side, int], list[Figure]]] = [partial(Side.figures, workload=each) for each in workloads]
    turns.append(partial(Side.streams, prompts=prompts))
    for number in range(count + 1):
        for turn in turns:
            found = {side: turn(side, number) for side in ((ours, theirs) if number % 2 else (theirs, ours))}
            for mine, other in zip(found[ours], found[theirs], strict=True):
                if number:
                    yield Pair(mine.name, mine.unit, mine.value, other.value)
        note(f"pair {number} of {count}")


def markdown(stamp: Stamp, found: Sequence[Pair], count: int, against: str) -> str:
    by_figure: dict[str, list[Pair]] = defaultdict(list)
    for pair in found:
        by_figure[pair.figure].append(pair)
    rows = ["| figure | unit | before | after | ratio | pairs from | to |", "|---|---|---|---|---|---|---|"]
    for figure, those in by_figure.items():
        ratios = [pair.ratio for pair in those]
        before, after = median(pair.theirs for pair in those), median(pair.ours for pair in those)
        told = f"{before:.1f} | {after:.1f} | **{median(ratios):.3f}** | {min(ratios):.2f} | {max(ratios):.2f}"
        rows.append(f"| {figure} | {those[0].unit} | {told} |")
    circumstances = (
        f"{stamp.hardware}, {stamp.threads} threads, {stamp.taken}; {MODEL}; {count} pairs in two sittings, each after "
        f"one that is not counted; before: {against}. All figures are rates: more is better. A ratio is the median of "
        "the pairs'."
    )
    return "\n\n".join(["# Before and after", f"    {stamp.command}", circumstances, "\n".join(rows)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m bench.before_after")
    parser.add_argument("other", type=Path, help="a checkout with a .venv")
    parser.add_argument("--name", default="change", help="what is compared: the result is before-after-NAME.md")
    parser.add_argument("--against", default="the other checkout", help="what the other checkout is, in words")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="short prompts, one pair; filed only with --out")
    parser.add_argument("--streams-only", action="store_true", help="HTTP streams alone: many pairs in little time")
    parser.add_argument("--out", type=Path, help="folder; by default one under bench/results")
    options = parser.parse_args(given)
    workloads, count = (QUICK, 1) if options.quick else (WORKLOADS, options.pairs)
    workloads = () if options.streams_only else workloads
    found = list(sittings(Checkout.at(options.other), workloads, count))
    only = " --streams-only" if options.streams_only else ""
    command = f"python -m bench.before_after OTHER --name {options.name} --pairs {count}{only}"
    stamp = Stamp.now(command)
    text = markdown(stamp, found, count, options.against)
    print(text)
    folder = options.out or (None if options.quick else folder_for(stamp))
    if folder is not None:
        data = json.dumps({"stamp": asdict(stamp), "pairs": [asdict(pair) for pair in found]}, indent=1) + "\n"
        note(f"filed: {write_files(folder, f'before-after-{options.name}', text, data, None)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""server-overhead: what HTTP adds to the library, and what a long prompt does to streams that are running.

The library and ``kvloom serve`` run in processes of their own and take turns; the client is a third process (this one),
whose work counts as the server's: on a small machine it takes the same cores.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles

import uvloop

from bench.harness import Check, Outcome, at_least, at_most, note, worst_of
from bench.peers.base import Setup
from bench.remote import RemotePeer, interpreter, setup_of
from bench.served import Arrivals, Served
from bench.text import long_text
from kvloom.config import default_threads
from kvloom.model.files.loading import load_tokenizer
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"
SHARE, STALL = 0.95, 2.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """``streams`` equal requests; then a prompt of ``long`` tokens while ``running`` streams go on."""

    streams: int = 32
    prompt: int = 64
    num_new: int = 64
    rounds: int = 7
    running: int = 8
    long: int = 4096


@dataclass(frozen=True, slots=True)
class Stall:
    """Seconds between tokens of running streams: before a long prompt came, and while it was prefilled."""

    quiet: list[float]
    during: list[float]
    prefill_s: float

    @property
    def p99_s(self) -> float:
        return quantiles(self.during, n=100, method="inclusive")[98]


def rates(text: list[int], sizes: Sizes) -> list[tuple[float, float]]:
    """Output tokens per second of the library and of the server, by round."""
    prompts = [text[n * 7 : n * 7 + sizes.prompt] for n in range(sizes.streams)]
    capacity = sizes.streams * (sizes.prompt + sizes.num_new) + 1024
    found = []
    with _library(setup_of(pull(MODEL), default_threads(), capacity)) as library, _server() as served:
        for number in range(sizes.rounds + 1):
            library.reset()
            answers = library.run(prompts, sizes.num_new)
            served.resume()
            served.reset_cache()
            seconds = uvloop.run(stream_all(served, prompts, sizes.num_new))
            served.pause()
            count = sizes.streams * sizes.num_new
            found.append((count / max(answer.times_s[-1] for answer in answers), count / seconds))
            note(f"round {number}: library {found[-1][0]:.0f}, server {found[-1][1]:.0f} tok/s")
    return found[1:]  # the first round warms both up


async def stream_all(served: Served, prompts: list[list[int]], num_new: int) -> float:
    """Seconds until all streams have ended."""
    started = time.perf_counter()
    await asyncio.gather(*(served.stream(prompt, num_new, Arrivals()) for prompt in prompts))
    return time.perf_counter() - started


async def stall(served: Served, text: list[int], sizes: Sizes) -> Stall:
    """Start the streams, let them run, then send the long prompt."""
    arrivals = [Arrivals() for _ in range(sizes.running)]
    prompts = [text[n * 11 : n * 11 + sizes.prompt] for n in range(sizes.running)]
    running = [
        asyncio.create_task(served.stream(prompt, 100_000, each))
        for prompt, each in zip(prompts, arrivals, strict=True)
    ]
    try:
        await _until_each_has(arrivals, sizes.num_new // 2)
        quiet_from = time.perf_counter()
        await _until_each_has(arrivals, sizes.num_new)
        sent = time.perf_counter()
        await served.stream((text * 8)[-sizes.long :], 1, Arrivals())
        done = time.perf_counter()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    quiet = [gap for each in arrivals for gap in each.gaps_s(quiet_from, sent)]
    return Stall(quiet, [gap for each in arrivals for gap in each.gaps_s(sent, done)], done - sent)


async def _until_each_has(arrivals: list[Arrivals], count: int) -> None:
    deadline = time.perf_counter() + 120
    while any(len(each.times_s) < count for each in arrivals):
        if time.perf_counter() > deadline:
            raise RuntimeError("the streams do not run")
        await asyncio.sleep(0.02)


def checks_of(found: list[tuple[float, float]], stalled: Stall) -> list[Check]:
    library, server = (median(values) for values in zip(*found, strict=True))
    shares = [theirs / ours for ours, theirs in found]
    during, quiet = median(stalled.during), median(stalled.quiet)
    return [
        at_least(
            "HTTP streams",
            median(shares),
            SHARE,
            "of library throughput",
            f"{server:.0f} against {library:.0f} tok/s; by round {min(shares):.2f} to {max(shares):.2f}",
        ),
        at_most(
            "p99 between tokens during a long prefill",
            stalled.p99_s / during,
            STALL,
            "x the median",
            f"p99 {stalled.p99_s * 1e3:.0f} ms, median {during * 1e3:.0f} ms (before: {quiet * 1e3:.0f} ms), "
            f"prefill {stalled.prefill_s:.1f} s",
        ),
    ]


def measure(quick: bool) -> Outcome:
    """Full: 7 rounds of 32 streams, a prompt of 4096 tokens. Quick: 1 round of 8 streams, a prompt of 1024."""
    sizes = Sizes(streams=8, num_new=24, rounds=1, running=4, long=1024) if quick else Sizes()
    text = load_tokenizer(pull(MODEL)).encode(long_text())
    found = rates(text, sizes)
    with Served(MODEL, "--threads", str(default_threads())) as served:
        stalled = uvloop.run(stall(served, text, sizes))
    quiet = median(stalled.quiet)
    details = {
        "quick": quick,
        "p99_over_quiet_median": round(stalled.p99_s / quiet, 2),
        "median_over_quiet_median": round(median(stalled.during) / quiet, 2),
        "tokens_per_s": [[round(rate, 1) for rate in pair] for pair in found],
    }
    return worst_of("server-overhead", checks_of(found, stalled), details)


@contextmanager
def _library(setup: Setup) -> Iterator[RemotePeer]:
    python = interpreter("kvloom")
    assert python is not None
    peer = RemotePeer("kvloom", python, setup)
    try:
        yield peer
    finally:
        peer.close()


@contextmanager
def _server() -> Iterator[Served]:
    with Served(MODEL, "--threads", str(default_threads())) as served:
        served.pause()
        yield served

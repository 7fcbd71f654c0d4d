"""load: 256 streams for ten minutes, each of which can tell whether its answer is its own; then a drain under load.

``kvloom serve`` in a process of its own. Holds when no answer is lost or mixed with another, what is more than the
server lets wait is refused with status 429 and a time to come again, never more wait than that, the audit passes, and
a server that is told to stop under this load answers all that it has taken in, and ends by itself.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from urllib.request import urlopen

from bench.harness import Check, Outcome, at_least, at_most, note, worst_of
from bench.load_traffic import Load, Told
from bench.served import Served, audit
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"
_LOOK_S = 1.0
_DRAIN_S = 120


@dataclass(frozen=True, slots=True)
class Sizes:
    """``burst``: clients that come on top, half-way, more than ``max_waiting``."""

    streams: int = 256
    seconds: float = 600.0
    max_waiting: int = 128
    burst: int = 512


@dataclass(slots=True)
class Seen:
    """``most_waiting``: in any look at the server's counters. ``audit``: while the load was on."""

    most_waiting: int = 0
    audit: str = "none was made"
    ended: int | None = None


async def watch(url: str, seen: Seen) -> None:
    """Look at the counters until the server goes."""
    while True:
        with suppress(OSError, ValueError):
            said = await asyncio.to_thread(_get, f"{url}/cache")
            seen.most_waiting = max(seen.most_waiting, said["waiting"])
        await asyncio.sleep(_LOOK_S)


def _get(url: str) -> dict[str, int]:
    with urlopen(url, timeout=30) as response:
        said: dict[str, int] = json.load(response)
    return said


async def under_load(load: Load, sizes: Sizes, stop: Callable[[], None]) -> tuple[list[Told], Seen]:
    url, seen = f"http://{load.host}:{load.port}", Seen()
    watching = asyncio.create_task(watch(url, seen))

    async def check() -> None:
        await asyncio.sleep(sizes.seconds * 0.8)
        seen.audit = await asyncio.to_thread(audit, url)

    checking = asyncio.create_task(check())
    told = await load.run(sizes.streams, sizes.seconds, sizes.burst, stop)
    await checking
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    return told, seen


def judged(told: Sequence[Told], seen: Seen, sizes: Sizes, leaving_s: float) -> Outcome:
    """``leaving_s``: when the server was told to stop, as ``Told.sent_s``."""
    ends = Counter(each.end for each in told)
    whole = [each for each in told if each.end == "whole"]
    firsts = [each.first_s for each in whole if each.first_s is not None]
    cuts = quantiles(firsts, n=100, method="inclusive") if len(firsts) > 1 else [float("nan")] * 99
    began = min((each.sent_s for each in told), default=leaving_s)
    rate = sum(each.tokens for each in whole) / max(1e-9, leaving_s - began)
    late = sum(each.ended_s > leaving_s for each in whole)
    checks = [
        at_least("answers that are whole", ends["whole"], sizes.streams, "at least one for each stream"),
        _none("answers that were lost", ends["broken"], _first(told, "broken")),
        _none("answers mixed with others", ends["mixed"], _first(told, "mixed")),
        at_least("refusals with a time to come again", ends["refused"], 1, f"more than {sizes.max_waiting} came"),
        at_most("waiting at most", seen.most_waiting, sizes.max_waiting, "prompts"),
        _none("audits that fail", int(seen.audit != "passes"), seen.audit),
        at_least("answers that ended after the signal", late, 1, "or the drain had nothing to lose"),
        _none("servers that did not end by themselves", int(seen.ended != 0), f"status {seen.ended}"),
    ]
    details = {
        "streams": sizes.streams,
        "seconds": sizes.seconds,
        "requests": len(told),
        "ends": dict(ends),
        "tokens_per_s": round(rate, 1),
        "first_token_p50_s": round(cuts[49], 3),
        "first_token_p99_s": round(cuts[98], 3),
        "turned_away_by_the_drain": ends["turned away"],
    }
    return worst_of("load", checks, details)


def _first(told: Sequence[Told], end: str) -> str:
    return next((each.said for each in told if each.end == end), "")


def _none(name: str, count: int, remark: str) -> Check:
    return Check(name, count, 0, "", 1.0 if count == 0 else 0.0, remark)


def measure(quick: bool) -> Outcome:
    """Full: 256 streams, ten minutes. Quick: 32 streams, 15 seconds."""
    sizes = Sizes(streams=32, seconds=15.0, max_waiting=16, burst=64) if quick else Sizes()
    pull(MODEL)
    flags = ("--max-waiting", str(sizes.max_waiting), "--max-connections", str(2 * (sizes.streams + sizes.burst)))
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "kvloom.toml"
        settings.write_text(f"drain_seconds = {_DRAIN_S}\n", encoding="utf-8")
        with Served(MODEL, *flags, "--config", str(settings)) as served:
            load = Load(served.host, served.port, MODEL)
            told, seen = asyncio.run(under_load(load, sizes, served.stop))
            seen.ended = served.ended(_DRAIN_S)
    assert load.leaving_s is not None
    note(f"{len(told)} requests, {time.perf_counter() - load.leaving_s:.1f} s since the signal")
    return judged(told, seen, sizes, load.leaving_s)

"""window: what the page shows, checked in a real browser on a real model; and what it costs to have it open.

The browser of whoever looks is usually on another machine. So the cost is that of being asked as often as the page
asks, by a client that draws nothing; what a browser on the same cores takes is reported beside it.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median
from urllib.request import Request, urlopen

import uvloop

from bench.browser import Browser, NoBrowser, opened
from bench.harness import Outcome, at_least, note, worst_of
from bench.served import Arrivals, Served
from bench.text import long_text
from bench.window_checks import CHECKS, Stage
from kvloom.config import default_threads
from kvloom.model.files.loading import load_tokenizer
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"
SHARE = 0.98
POLL_S = 1.0
"""As ``store.js`` says."""

_TEXT_TOKENS = 512
_KV = ("--kv-bytes", "64MiB")


@dataclass(frozen=True, slots=True)
class Sizes:
    """``streams`` at once, of ``num_new`` tokens each, closed and open ``pairs`` times."""

    streams: int = 8
    prompt: int = 64
    num_new: int = 192
    pairs: int = 7


def seen(stage: Stage, checks: Mapping[str, Callable[[Stage], None]] = CHECKS) -> dict[str, str]:
    """By check: what went wrong, nothing where it holds."""
    found = {}
    for name, check in checks.items():
        try:
            check(stage)
            found[name] = ""
        except Exception as fault:  # a browser that gives up is a check that does not hold
            found[name] = f"{type(fault).__name__}: {fault}".splitlines()[0]
        note(f"{name}: {found[name] or 'holds'}")
    return found


async def rate(served: Served, prompts: list[list[int]], num_new: int, looked_at: bool) -> float:
    """Tokens per second of all streams together. ``looked_at``: somebody polls meanwhile, as the page does."""
    looking = asyncio.create_task(look(served)) if looked_at else None
    started = time.perf_counter()
    await asyncio.gather(*(served.stream(prompt, num_new, Arrivals()) for prompt in prompts))
    seconds = time.perf_counter() - started
    if looking is not None:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
    return len(prompts) * num_new / seconds


async def look(served: Served) -> None:
    """Ask like the page: for what is new, a second after the last answer."""
    after = 0
    while True:
        reader, writer = await asyncio.open_connection(served.host, served.port)
        head = f"GET /window?after={after} HTTP/1.1\r\nHost: {served.host}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        reply = await reader.read(-1)
        writer.close()
        after = json.loads(reply.partition(b"\r\n\r\n")[2])["last"]
        await asyncio.sleep(POLL_S)


def pairs_of(served: Served, text: list[int], sizes: Sizes) -> list[tuple[float, float]]:
    """(closed, open): tokens per second, one right after the other, in changing order."""
    prompts = [text[n * 7 : n * 7 + sizes.prompt] for n in range(sizes.streams)]
    uvloop.run(rate(served, prompts, sizes.num_new // 4, True))  # warms up
    found = []
    for number in range(sizes.pairs):
        order = (False, True) if number % 2 else (True, False)
        rates = {looked_at: uvloop.run(rate(served, prompts, sizes.num_new, looked_at)) for looked_at in order}
        found.append((rates[False], rates[True]))
        note(f"pair {number}: closed {rates[False]:.0f}, open {rates[True]:.0f} tok/s")
    return found


def outcome(checked: dict[str, str], pairs: list[tuple[float, float]], beside: float | None, quick: bool) -> Outcome:
    """``beside``: tokens per second while a browser on the same machine shows the page; None: it was not measured."""
    shares = [looked_at / closed for closed, looked_at in pairs]
    closed = median(before for before, _ in pairs)
    held = sum(not fault for fault in checked.values())
    checks = [
        at_least(
            "checks that hold", held, len(CHECKS), f"of {len(CHECKS)}", ", ".join(n for n, e in checked.items() if e)
        ),
        at_least(
            "8 streams, the window open",
            median(shares),
            SHARE,
            "of the tokens per second with it closed",
            f"closed {closed:.0f} tok/s; by pair {min(shares):.3f} to {max(shares):.3f}",
        ),
    ]
    details = {
        "quick": quick,
        "checks": {name: fault or "holds" for name, fault in checked.items()},
        "tokens_per_s": [[round(each, 1) for each in pair] for pair in pairs],
        "with_a_browser_on_the_same_cores": None if beside is None else round(beside / closed, 3),
    }
    return worst_of("window", checks, details)


def measure(quick: bool) -> Outcome:
    """Full: all checks, 7 pairs of 8 streams of 192 tokens. Quick: all checks, 2 pairs of 64 tokens."""
    sizes = Sizes(num_new=64, pairs=2) if quick else Sizes()
    tokenizer = load_tokenizer(pull(MODEL))
    text = tokenizer.encode(long_text())
    with tempfile.TemporaryDirectory() as folder:
        flags = ("--threads", str(default_threads()), *_KV, "--cache-dir", folder, "--disk-bytes", "1GiB")
        with Served(MODEL, *flags) as served:
            with _browser() as browser:
                if browser is None:
                    checked = dict.fromkeys(CHECKS, "no browser")
                else:
                    words = tokenizer.decode(text[:_TEXT_TOKENS])
                    checked = seen(Stage(browser, url_of(served), words, lambda: fill(served, text), long=200))
            pairs = pairs_of(served, text, sizes)
            beside = None if quick else beside_browser(served, text, sizes)
    return outcome(checked, pairs, beside, quick)


def beside_browser(served: Served, text: list[int], sizes: Sizes) -> float | None:
    prompts = [text[n * 7 : n * 7 + sizes.prompt] for n in range(sizes.streams)]
    with _browser() as browser:
        if browser is None:
            return None
        browser.open(f"{url_of(served)}/ui")
        return uvloop.run(rate(served, prompts, sizes.num_new, False))


def url_of(served: Served) -> str:
    return f"http://{served.host}:{served.port}"


def fill(served: Served, text: list[int]) -> None:
    """Take the memory for other prompts, once what is idle has been written to the tier."""
    written = -1
    while written != (written := _written(served)):
        time.sleep(0.5)
    room = json.loads(urlopen(f"{url_of(served)}/window/about").read())["max_model_len"]
    for start in (1000, 3000):
        body = {"prompt": (text * 8)[start : start + room - 16], "max_tokens": 1}
        sent = Request(f"{url_of(served)}/v1/completions", json.dumps(body).encode())
        sent.add_header("Content-Type", "application/json")
        with urlopen(sent) as response:
            response.read()


def _written(served: Served) -> int:
    """Pages written so far."""
    with urlopen(f"{url_of(served)}/window") as response:
        written: int = json.load(response)["tiers"][0]["written_pages"]
        return written


@contextmanager
def _browser() -> Iterator[Browser | None]:
    try:
        with opened() as browser:
            yield browser
    except NoBrowser as missing:
        note(str(missing))
        yield None

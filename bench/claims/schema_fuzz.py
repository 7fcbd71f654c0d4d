"""schema-fuzz: whatever the OpenAPI document allows or forbids, and whoever leaves, the server answers as before.

``kvloom serve`` in a process of its own, with room for 128 tokens in a context. First, cases that schemathesis makes
from the server's document (``bench.schema_cases``), paths that reset the cache and save and restore contexts included.
Then clients that leave, are slow or send rubbish (``bench.hostile``). Holds when nothing is answered with a status of
500 or more, nothing takes longer than a minute, no page is held and nothing runs afterwards, the audit passes, memory
is what it was after a tenth as many clients, and greedy answers are those of before.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.request import Request, urlopen

from bench.floods import Target
from bench.harness import Check, Outcome, at_least, at_most, note, worst_of
from bench.hostile import beset
from bench.schema_cases import Tally, fuzz, with_model
from bench.served import Served, audit
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"
GROWTH = 0.05
_TOGETHER = 32
_WARM_UP = 200
"""Clients at least, before memory is measured: until then buffers, caches and the KV budget fill."""
_SETTLE_S = 90.0
"""Longer than the server waits for those who read nothing."""
_PROMPT = "The observatory on the hill"


def answer(url: str, model: str) -> str:
    """A greedy one, to a prompt that is always the same. Raises OSError."""
    return _text({"model": model, "prompt": _PROMPT, "max_tokens": 16, "temperature": 0}, f"{url}/v1/completions")


def _text(body: dict[str, Any], url: str) -> str:
    sent = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(sent, timeout=60) as response:
        text: str = json.load(response)["choices"][0]["text"]
    return text


def at_rest(url: str, patience_s: float) -> dict[str, int]:
    """What runs, waits and is held, once that is nothing or patience has ended."""
    deadline = time.monotonic() + patience_s
    while True:
        with urlopen(f"{url}/cache", timeout=60) as response:
            said = json.load(response)
        left = {"running": said["running"], "waiting": said["waiting"], "held_pages": said["cache"]["held_pages"]}
        if not any(left.values()) or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


def judged(
    tally: Tally,
    clients: dict[str, Counter[str]],
    rest: dict[str, int],
    audited: str,
    answers: tuple[str, str],
    resident: tuple[int, int],
) -> Outcome:
    """``answers``, ``resident``: before and after; bytes."""
    said = Counter[str]()
    for endings in clients.values():
        said += endings
    faults = sum(count for ending, count in said.items() if ending[0] == "5")
    checks = [
        _none("cases with a fault", tally.fault_count, "; ".join(tally.faults[:2])),
        _none("clients met with a fault of the server", faults, ""),
        _none("clients without an answer in a minute", said["no answer"], ""),
        _none("left behind", sum(rest.values()), str(rest)),
        _none("audits that fail", int(audited != "passes"), audited),
        _none("answers that differ afterwards", int(answers[0] != answers[1]), f"{answers[1]!r}"),
        at_least("cases answered with 200", tally.statuses[200], 1, "or the engine was never reached"),
        at_least("cases refused", tally.statuses[400], 1, "or nothing was wrong with them"),
        at_most("resident memory", resident[1] / resident[0], 1 + GROWTH, "x that after the warm-up", _mib(resident)),
    ]
    details = {
        "cases": tally.statuses.total(),
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "paths": dict(tally.paths),
        "slowest_s": round(tally.slowest_s, 2),
        "faults": tally.faults,
        "clients": {kind: dict(endings) for kind, endings in clients.items()},
    }
    return worst_of("schema-fuzz", checks, details)


def _none(name: str, count: int, remark: str) -> Check:
    return Check(name, count, 0, "", 1.0 if count == 0 else 0.0, remark)


def _mib(resident: tuple[int, int]) -> str:
    return f"{resident[1] / 2**20:.1f} MiB, {resident[0] / 2**20:.1f} MiB after the warm-up"


def attack(target: Target, document: dict[str, Any], cases: int, clients: int, resident: Callable[[], int]) -> Outcome:
    """Both, one after the other. ``resident``: bytes of the server. Not on an event loop."""
    url = f"http://{target.host}:{target.port}"
    before = answer(url, target.model)
    tally = fuzz(url, with_model(document, target.model), cases, seed=5)
    note(f"{tally.statuses.total()} cases: {dict(tally.statuses)}, {tally.fault_count} faults")
    asyncio.run(beset(target, max(_WARM_UP, clients // 10), _TOGETHER))
    at_rest(url, _SETTLE_S)
    first = resident()
    note(f"after the first clients: {first >> 20} MiB")
    endings = asyncio.run(beset(target, clients, _TOGETHER))
    rest = at_rest(url, _SETTLE_S)
    return judged(tally, endings, rest, audit(url), (before, answer(url, target.model)), (first, resident()))


def measure(quick: bool) -> Outcome:
    """Full: 3,000 cases, 10,000 clients. Quick: 100 and 300."""
    cases, clients = (100, 300) if quick else (3000, 10_000)
    pull(MODEL)
    with tempfile.TemporaryDirectory() as folder:
        flags = ("--max-model-len", "128", "--kv-bytes", "16MiB", "--sessions-dir", folder)
        with Served(MODEL, *flags, "--max-request-sequences", "8") as served:
            with urlopen(f"http://{served.host}:{served.port}/openapi.json") as response:
                document = json.load(response)
            target = Target(served.host, served.port, MODEL, random.Random(5))
            return attack(target, document, cases, clients, served.resident_bytes)

"""soak: what abusive clients do to well-behaved ones.

``kvloom serve`` in a process of its own; twelve clients that send one request after the other, greedy and sampled, to
completions and chats; meanwhile, in a third process, abusive clients of every kind (``bench.floods``): huge texts and
headers, bodies that stall, requests for 131,072 sequences, invalid fields, bytes that are not HTTP. Holds when no good
answer is lost or differs from its answer without load, the p99 of the first token is at most
twice that without the floods, the ledger's audit passes, and resident memory is back where it was.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import quantiles
from typing import Any
from urllib.request import Request, urlopen

from bench.good_traffic import Heard, Question, Traffic
from bench.harness import Check, Outcome, at_most, note, worst_of
from bench.served import Served
from bench.text import long_text, prompts
from kvloom.model.files.loading import load_tokenizer
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"
CLIENTS = 12
TIMES, GROWTH = 2.0, 0.10


def questions(document: Sequence[int]) -> list[Question]:
    """Thirty: texts, token ids after shared prefixes, and chats; half of them sampled, with a seed."""
    made = []
    for number, text in enumerate(prompts()[:10]):
        said = {"temperature": 0.0 if number % 2 else 0.8, "seed": number, "max_tokens": 16 + 4 * number}
        made.append(Question(f"text-{number}", "/v1/completions", {"prompt": text, **said}))
        start = 100 + 40 * number
        ids = [*document[: 256 * (number % 3)], *document[start : start + 64]]
        made.append(Question(f"ids-{number}", "/v1/completions", {"prompt": ids, **said}))
        turns = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": text}]
        made.append(Question(f"chat-{number}", "/v1/chat/completions", {"messages": turns, **said}))
    return made


def p99_s(heard: Sequence[Heard]) -> float:
    """Of the time to the first token."""
    return quantiles([each.first_s for each in heard if each.first_s is not None], n=100, method="inclusive")[98]


def wrong(heard: Sequence[Heard], expected: dict[str, str]) -> tuple[int, int]:
    """(lost, different) answers; the first of each kind is printed."""
    lost = [each for each in heard if each.text is None]
    different = [each for each in heard if each.text is not None and each.text != expected[each.question]]
    for each in lost[:1]:
        note(f"lost: {each.question}: {each.said}")
    for each in different[:1]:
        note(f"different: {each.question}: {each.text!r}, not {expected[each.question]!r}")
    return len(lost), len(different)


async def _reference(traffic: Traffic) -> dict[str, str]:
    expected = {}
    for question in traffic.questions:
        heard = await traffic.ask(question)
        if heard.text is None:
            raise RuntimeError(f"no answer to {question.name} in the quiet: {heard.said}")
        expected[question.name] = heard.text
    return expected


def _audit(served: Served) -> str:
    """``passes``, or what the server says."""
    try:
        with urlopen(Request(f"http://{served.host}:{served.port}/cache/check", method="POST")) as response:
            response.read()
        return "passes"
    except OSError as error:
        return str(error)


def _floods(served: Served, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.floods", served.host, str(served.port), served.model, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _settled_bytes(served: Served, below: float, patience_s: float = 60.0) -> int:
    """Resident bytes of the server, once they are below a limit or patience ends: stalled connections linger."""
    deadline = time.monotonic() + patience_s
    while served.resident_bytes() > below and time.monotonic() < deadline:
        time.sleep(1.0)
    return served.resident_bytes()


def measure(quick: bool) -> Outcome:
    """Full: 15 minutes, four of them quiet. Quick: one minute, twenty seconds of them quiet."""
    quiet_s, loud_s = (20.0, 40.0) if quick else (240.0, 660.0)
    document = load_tokenizer(pull(MODEL)).encode(long_text())
    with Served(MODEL) as served:
        traffic = Traffic(served.host, served.port, MODEL, questions(document))
        expected = asyncio.run(_reference(traffic))
        quiet = asyncio.run(traffic.run(CLIENTS, time.perf_counter() + quiet_s))
        before = served.resident_bytes()
        note(f"quiet: {len(quiet)} answers, p99 of the first token {p99_s(quiet) * 1e3:.0f} ms, {before >> 20} MiB")
        flooding = _floods(served, loud_s)
        loud = asyncio.run(traffic.run(CLIENTS, time.perf_counter() + loud_s))
        tallies: dict[str, dict[str, int]] = json.loads(flooding.communicate()[0].splitlines()[-1])
        after = _settled_bytes(served, before * (1 + GROWTH))
        audit = _audit(served)
    return judged(expected, quiet, loud, (before, after), audit, tallies)


def judged(
    expected: dict[str, str],
    quiet: Sequence[Heard],
    loud: Sequence[Heard],
    resident: tuple[int, int],
    audit: str,
    tallies: dict[str, dict[str, int]],
) -> Outcome:
    lost, different = wrong([*quiet, *loud], expected)
    served_anyway = sum(count for kind in tallies.values() for status, count in kind.items() if status[0] in "25")
    unanswered = sum(kind.get("no answer", 0) for kind in tallies.values())
    calm, crowded = p99_s(quiet), p99_s(loud)
    checks: list[Check] = [
        at_most("p99 of the first token beside floods", crowded / calm, TIMES, "x that without", _ms(calm, crowded)),
        _none("good answers lost", lost, f"of {len(quiet) + len(loud)}"),
        _none("good answers that differ", different, f"of {len(quiet) + len(loud)}"),
        _none("floods served, or met with a fault of ours", served_anyway, "statuses 2xx and 5xx"),
        _none("floods without an answer in a minute", unanswered, ""),
        _none("audits that fail", int(audit != "passes"), audit),
        at_most("resident memory", resident[1] / resident[0], 1 + GROWTH, "x that before", _mib(*resident)),
    ]
    details: dict[str, Any] = {"answers": len(loud), "floods": tallies}
    return worst_of("soak", checks, details)


def _none(name: str, count: int, remark: str) -> Check:
    return Check(name, count, 0, "", 1.0 if count == 0 else 0.0, remark)


def _ms(calm: float, crowded: float) -> str:
    return f"{crowded * 1e3:.0f} ms, {calm * 1e3:.0f} ms in the quiet"


def _mib(before: int, after: int) -> str:
    return f"{after >> 20} MiB, {before >> 20} MiB in the quiet"

"""matkv: passages whose KV was computed once, on disk, against computing them for every question.

SmolLM2 and 500 passages of 256 tokens, added to a cache directory. Then, in another process's engine with nothing in
RAM, questions over 8 random ones: their KV is loaded and fused (A^3, 15%), or the whole prompt is computed, in turns.
Counted is all of a question, up to the last of 16 tokens of the answer: seconds, and CPU seconds of all threads. The
store is there after a restart, and after processes that add to it were killed (SIGKILL): what was there before is
there, what they wrote is whole, and answers from it are those from passages that are computed anew.

Source: MatKV (arXiv 2512.22195), which halves time and energy; there nothing is computed again but the question.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.harness import Check, Outcome, at_least, at_most, note, worst_of
from bench.materialise import materialised, passages_of
from bench.passage_questions import FULL, Answered, Passages, answered, question_over
from kvloom import LLM, TierConfig
from kvloom.model.files.store import pull

MODEL = "smollm2-135m-instruct"
GOAL = 0.5
"""Of the time and of the CPU seconds that computing takes."""

ANSWER = 16
DAMAGE = {"short", "corrupt", "differs"}


@dataclass(frozen=True, slots=True)
class Size:
    passages: int
    tokens: int
    together: int
    rounds: int
    kills: int


QUICK, WHOLE = Size(64, 256, 8, 4, 1), Size(500, 256, 8, 30, 4)


def opened(directory: Path) -> LLM:
    return LLM(MODEL, kv_bytes="512MiB", tiers=TierConfig(cache_dir=str(directory), disk_bytes="64GiB"))


def compared(llm: LLM, passages: Passages, size: Size) -> list[dict[str, Answered]]:
    """For each question, how it was answered: ``full``, ``fused``, and ``reused``, where no row is repaired.

    The first of each kind is not counted: it has the arena's page faults.
    """
    rng, rounds = random.Random(3), []
    for number in range(size.rounds + 1):
        question = question_over(llm, rng.sample(list(passages), size.together), rng, number)
        ways = {"full": FULL, "fused": question.fused(), "reused": question.fused("reuse")}
        round_ = {}
        for name in sorted(ways, reverse=number % 2 == 1):
            llm.engine.ledger.reset()  # RAM alone
            round_[name] = answered(llm, question, ways[name], ANSWER)
        rounds.append(round_)
    return rounds[1:]


def judged(rounds: Sequence[dict[str, Answered]], tokens: int) -> list[Check]:
    """``tokens``: of the passages of a question, all of which are on disk."""
    mid = {
        name: (median(each[name].seconds for each in rounds), median(each[name].cpu_s for each in rounds))
        for name in rounds[0]
    }
    (full_s, full_cpu_s), (fused_s, fused_cpu_s) = mid["full"], mid["fused"]
    loaded = sum(each["fused"].found for each in rounds) / (tokens * len(rounds))
    for name, (seconds, cpu_s) in mid.items():
        note(f"{name}: {seconds:.3f} s, {cpu_s:.3f} CPU s, {len(rounds)} questions")
    return [
        at_most("time", fused_s / full_s, GOAL, "of computing", f"{1e3 * fused_s:.0f} ms of {1e3 * full_s:.0f}"),
        at_most("CPU time", fused_cpu_s / full_cpu_s, GOAL, "of computing", f"{fused_cpu_s:.3f} s of {full_cpu_s:.3f}"),
        at_least("tokens of passages that came from disk", loaded, 1.0, "of all"),
    ]


def kill_one_that_adds(directory: Path, size: Size, first: int, seconds: float) -> None:
    """A process adds passages from number ``first`` on, until it is killed: so long after it has added one."""
    command = [sys.executable, "-m", "bench.adding", str(directory), str(size.tokens), str(first)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline().strip() != "added":
        raise RuntimeError("the process that adds passages failed")
    time.sleep(seconds)
    process.kill()
    process.wait(60)
    process.stdout.close()


def surviving(directory: Path, passages: Passages, size: Size) -> list[Check]:
    """``passages``: the first of them are stored, ``size.passages`` in number; the others are added, and killed at."""
    rng, there, whole, asked, right, partly = random.Random(4), 0, True, 0, 0, 0
    for _ in range(size.kills):
        kill_one_that_adds(directory, size, size.passages, rng.random())
        with opened(directory) as llm:
            found = [llm.chunks.find(passage) for passage in passages]
            kept = [each is not None and each.kept for each in found]
            there += sum(kept[: size.passages])
            late = [n for n in range(size.passages, len(passages)) if found[n] is not None]
            partly += len(late)
            chosen = [*rng.sample(range(size.passages), size.together - len(late[-3:])), *late[-3:]]
            question = question_over(llm, [passages[n] for n in chosen], rng, asked)
            stored = answered(llm, question, question.fused(), ANSWER)
            anew = answered(llm, question, question.fused(read=False), ANSWER)
            asked, right = asked + 1, right + (stored.tokens == anew.tokens)
            llm.engine.check()
            (disk,) = llm.engine.tiers.stats().values()
            whole &= not DAMAGE & set(disk.faults) and disk.used_bytes <= disk.budget_bytes
    said = f"{size.kills} kills; {partly} passages of the killed were found, whole or in part"
    return [
        at_least("passages after kills", there / (size.passages * size.kills), 1.0, "of all", said),
        at_least("right answers after kills", right / asked, 1.0, "of all", said),
        at_least("files and budget in order", float(whole), 1.0, "", said),
    ]


def measure(quick: bool) -> Outcome:
    """Full: 500 passages, 30 questions, 4 kills. Quick: 64 passages, 4 questions, 1 kill."""
    pull(MODEL)
    size = QUICK if quick else WHOLE
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        with opened(directory) as llm:
            passages = passages_of(llm, size.passages + 64, size.tokens)
            stored = passages[: size.passages]
            made = materialised(llm, stored)
            note(f"{made['tokens']:,} tokens in {made['seconds']:.0f} s, {made['disk_bytes'] / 2**20:.0f} MiB")
        with opened(directory) as llm:
            found = [llm.chunks.find(passage) for passage in stored]
            kept = sum(each is not None and each.kept for each in found) / len(stored)
            checks = [at_least("passages after a restart", kept, 1.0, "of all")]
            checks += judged(compared(llm, stored, size), size.together * size.tokens)
        checks += surviving(directory, passages, size)
    return worst_of("matkv", checks, {"quick": quick, "added": {k: round(v, 3) for k, v in made.items()}})

"""restart-warm: KV on disk outlives the process, and loading it beats computing it.

SmolLM2 with a cache directory. A process answers prompts and ends; another one, with nothing in RAM, answers the same:
its first token after 4,096 comes at least 20 times sooner than when all is computed, and at no length does loading take
more than 1.1 times as long as computing. Then a process that writes pages is killed (SIGKILL) at random moments; the
next one answers as before, whatever it finds. Times are medians; computing and loading take turns.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.claims.lukv_memory import MODEL, contexts
from bench.drive import load
from bench.harness import Check, Outcome, at_least, at_most, note, worst_of
from kvloom.model.files.store import pull

TIMES_GOALS, WORST_GOAL = {1024: 5.0, 4096: 20.0}, 1.1
LENGTHS = (128, 512, 1024, 2048, 4096, 8000)


class Process:
    """``python -m bench.restarts``: see there."""

    def __init__(self, directory: Path, what: str) -> None:
        command = [sys.executable, "-m", "bench.restarts", str(directory), what]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.expect("ready")

    def expect(self, word: str) -> None:
        if (said := self._hear()) != word:
            raise RuntimeError(f"the engine's process said {said!r}")

    def ask(self, prompt: Sequence[int], cold: bool = False) -> dict[str, Any]:
        self.tell(prompt, cold)
        answer: dict[str, Any] = json.loads(self._hear())
        return answer

    def tell(self, prompt: Sequence[int], cold: bool = False) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompt": list(prompt), "cold": cold}) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def end(self) -> None:
        """In order: what waits is written."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.wait(120) != 0:
            raise RuntimeError("the engine's process failed")

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(60)


def warm_and_cold(prompts: dict[int, list[int]], directory: Path, rounds: int) -> tuple[list[Check], dict[int, Any]]:
    """``prompts``: by length. Also the answers."""
    before = Process(directory, "told")
    answers = {length: before.ask(prompt)["tokens"] for length, prompt in prompts.items()}
    before.end()
    after, first = Process(directory, "told"), dict.fromkeys(prompts, 0.0)
    checks, right, asked = [], 0, 0
    for length, prompt in prompts.items():
        pairs = []
        for number in range(rounds):
            warm, cold = after.ask(prompt), after.ask(prompt, cold=True)
            first[length] = first[length] or warm["ttft_s"]
            right += warm["tokens"] == cold["tokens"] == answers[length]
            asked += 1
            if warm["from_disk"] < length - 16 and number == 0:
                note(f"{length}: only {warm['from_disk']} tokens were loaded")
            pairs.append((cold["ttft_s"], warm["ttft_s"]))
        cold_s, warm_s = (median(side) for side in zip(*pairs, strict=True))
        said = f"{1e3 * cold_s:.0f} and {1e3 * warm_s:.0f} ms; {1e3 * first[length]:.0f} ms the first time"
        note(f"{length}: {said}")
        if length in TIMES_GOALS:
            checks.append(
                at_least(f"first token after {length}", cold_s / warm_s, TIMES_GOALS[length], "times sooner", said)
            )
        checks.append(at_most(f"loading {length}", warm_s / cold_s, WORST_GOAL, "times computing", said))
    after.end()
    return [*checks, at_least("right answers", right / asked, 1.0, "of all")], answers


def killed(prompts: dict[int, list[int]], answers: dict[int, Any], directory: Path, kills: int) -> list[Check]:
    """A process is killed while it writes, again and again; after each time another one answers."""
    rng, right, asked, within, loaded = random.Random(0), 0, 0, True, 0
    for _ in range(kills):
        writing = Process(directory, "serve")
        for prompt in prompts.values():
            writing.tell(prompt)
        writing.expect("done")
        time.sleep(rng.random() * 0.3)
        writing.kill()
        after = Process(directory, "told")
        for length, prompt in prompts.items():
            heard = after.ask(prompt)
            right += heard["tokens"] == answers[length]
            asked += 1
            loaded += heard["from_disk"]
            within &= heard["used_bytes"] <= heard["budget_bytes"] and not heard["faults"]
        after.end()
    said = f"{kills} kills; {loaded:,} tokens came from what the killed had written"
    return [
        at_least("right answers after kills", right / asked, 1.0, "of all", said),
        at_least("budgets and files in order", float(within), 1.0, "", said),
    ]


def measure(quick: bool) -> Outcome:
    """Full: six lengths, 5 rounds, 6 kills. Quick: two lengths, 2 rounds, 1 kill; 5 times sooner after 1,024."""
    pull(MODEL)
    lengths, rounds, kills = ((256, 1024), 2, 1) if quick else (LENGTHS, 5, 6)
    engines = load(MODEL)
    prompts = {length: contexts(engines, length, 1)[0] for length in lengths}
    with tempfile.TemporaryDirectory() as place:
        checks, answers = warm_and_cold(prompts, Path(place) / "warm", rounds)
        checks += killed(prompts, answers, Path(place) / "killed", kills)
    return worst_of("restart-warm", checks, {"quick": quick})

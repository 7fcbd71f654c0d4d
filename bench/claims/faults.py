"""faults: a tier that is slow, fails, loses or damages what it has costs an answer nothing but a little time.

SmolLM2 with KV in a cache directory and nothing in RAM. Each kind of fault is injected into every tenth page, then into
all: every answer is the same as without a cache, what went wrong is counted under its name, the audit passes, no budget
is exceeded, and the first token comes at most 1.1 times as late as when everything is computed. Computing and loading
take turns; medians.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from bench.claims.lukv_memory import MODEL, contexts
from bench.drive import load
from bench.harness import Check, Outcome, at_least, at_most, note, worst_of
from bench.restarts import answered, opened
from kvloom.model.files.store import pull

KINDS = {
    "slow": ("slow={}@2s", "slow"),
    "fail": ("fail={}", "failed"),
    "short": ("short={}", "short"),
    "corrupt": ("corrupt={}", "corrupt"),
    "full": ("full={}", "full"),
}
"""By what goes wrong: the setting, and the name under which it is counted."""

TIMES_GOAL = 1.1


def faulty(prompts: list[list[int]], place: Path, kind: str, chance: float, rounds: int) -> list[Check]:
    setting, name = KINDS[kind]
    if kind != "full":
        with opened(str(place)) as llm:
            for prompt in prompts:
                answered(llm, prompt, cold=False)
    times, right, asked, counted, within = [], 0, 0, 0, True
    with opened(str(place), "disk:" + setting.format(chance)) as llm:
        for number in range(rounds + 1):
            for prompt in prompts:
                bad, cold = answered(llm, prompt, cold=False), answered(llm, prompt, cold=True)
                right += bad["tokens"] == cold["tokens"]
                asked += 1
                counted = bad["faults"].get(name, 0)
                within &= bad["used_bytes"] <= bad["budget_bytes"]
                if number:
                    times.append((bad["ttft_s"], cold["ttft_s"]))
    ratio = median(bad / cold for bad, cold in times)
    said = f"{counted} pages were {name}"
    cell = f"{kind} {chance:g}"
    note(f"{cell}: {right} of {asked} answers right, {ratio:.2f} times computing, {said}")
    return [
        at_least(f"{cell}: right answers", right / asked, 1.0, "of all", said),
        at_least(f"{cell}: counted, within budget", float(counted > 0 and within), 1.0, "", said),
        at_most(f"{cell}: first token", ratio, TIMES_GOAL, "times computing", said),
    ]


def measure(quick: bool) -> Outcome:
    """Full: contexts of 1,024 and 4,096 tokens, 3 rounds. Quick: one of 512, one round, half of the pages alone."""
    pull(MODEL)
    lengths, rounds, chances = ((512,), 1, (0.5,)) if quick else ((1024, 4096), 3, (0.1, 1.0))
    engines = load(MODEL)
    prompts = [contexts(engines, length, 1)[0] for length in lengths]
    checks: list[Check] = []
    for kind in KINDS:
        for chance in chances:
            with tempfile.TemporaryDirectory() as place:
                checks += faulty(prompts, Path(place) / "cache", kind, chance, rounds)
    return worst_of("faults", checks, {"quick": quick})

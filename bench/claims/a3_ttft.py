"""a3-ttft: the time to the first token over passages whose KV is in RAM, against computing the same prompt.

Passages of about 512 tokens, each of which was computed alone before, lie between a short instruction and a question.
The fused request repairs 15% of the rows as A^3 does; the other one is the same engine without anything to reuse. Both
in turn, in an engine that does nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.drive import ModelEngines, load
from bench.harness import Outcome, at_least, note, worst_of
from bench.text import real_text
from kvloom.engine.cache_params import CacheParams
from kvloom.engine.engine import Engine
from kvloom.engine.params import SamplingParams
from kvloom.model.files.store import pull
from kvloom.policy.fusion import parse_fusion

MODEL = "smollm2-135m-instruct"
GOALS = {2048: 3.0, 6144: 4.0}
"""By tokens of passages: how many times sooner the first token comes."""

PASSAGE = 512
ONE = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)
SELECTORS = ("a3", "epic", "reuse")


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt over passages. ``documents``: where they lie in it."""

    tokens: list[int]
    documents: tuple[tuple[int, int], ...]


def asked(engines: ModelEngines, passages: Sequence[list[int]], order: Sequence[int], number: int) -> Asked:
    tokens = engines.encode("Answer the question with the help of these passages.\n\n")
    documents = []
    for index in order:
        documents.append((len(tokens), len(tokens) + len(passages[index])))
        tokens = tokens + passages[index]
    question = f"\n\nQuestion {number}: what did the astronomers write down that night, and why?\nAnswer:"
    return Asked(tokens + engines.loaded.tokenizer.encode(question, add_special_tokens=False), tuple(documents))


def ttft_s(engine: Engine, prompt: Asked, cache: CacheParams) -> float:
    engine.submit("asked", prompt.tokens, ONE, cache=cache)
    while engine.has_work:
        for update in engine.step():
            if update.error is not None:
                raise update.error
            if update.finished and update.metrics.ttft_s is not None:
                return update.metrics.ttft_s
    raise RuntimeError("no token came")


def measure(quick: bool) -> Outcome:
    """Full: 7 questions at both lengths. Quick: 3 over 2,048 tokens. The first of each kind is not counted."""
    pull(MODEL)
    engines = load(MODEL)
    engine = engines.make("1GiB")
    ids = engines.encode(real_text())
    checks, rounds = [], 3 if quick else 7
    figures: dict[str, object] = {"quick": quick}
    for length, goal in GOALS.items() if not quick else [(2048, GOALS[2048])]:
        count = length // PASSAGE
        passages = [ids[n * PASSAGE : (n + 1) * PASSAGE] for n in range(count)]
        ways = {"full": CacheParams(read=False, write=False)}
        took: dict[str, list[float]] = {name: [] for name in ("full", *SELECTORS)}
        for number in range(rounds + 1):
            order = [(number + n) % count for n in range(count)]
            prompt = asked(engines, passages, order, number)
            for name in took:
                fusion = None if name == "full" else parse_fusion(name)
                cache = ways.get(name) or CacheParams(fusion=fusion, documents=prompt.documents)
                took[name].append(ttft_s(engine, prompt, cache))
        mid = {name: median(seconds[1:]) for name, seconds in took.items()}
        figures |= {f"{name}_{length}_s": round(seconds, 4) for name, seconds in mid.items()}
        note(f"{length} tokens of passages: " + ", ".join(f"{name} {1e3 * s:.0f} ms" for name, s in mid.items()))
        spread = f"{1e3 * mid['full']:.0f} ms against {1e3 * mid['a3']:.0f} ms, {rounds} questions"
        checks.append(at_least(f"A^3 over {length} tokens", mid["full"] / mid["a3"], goal, "x sooner", spread))
    engine.check()
    return worst_of("a3-ttft", checks, figures)
